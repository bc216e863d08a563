/**
 * The data directory of one daemon: made, held exclusively, and described to others by node.json.
 *
 * What excludes a second daemon is flock(2) on the file `lock`, which the kernel releases however its
 * holder dies. Node cannot call it; flock(1) can, on an open file that it shares with this process.
 * Where that program is missing, the pid and start time in the file decide; the store's own lock is a
 * second line behind both.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmod,
  lstat,
  mkdir,
  mkdtemp,
  open,
  readFile,
  rename,
  rm,
  writeFile,
  type FileHandle,
} from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { hasCode, isDiskFull, MeshError, messageOf } from '../../base/errors.ts'
import { makeDirectories } from '../../files/make-directories.ts'
import { sha256 } from '../../wire/digest.ts'
import { NODE_FILE, SOCKET_FILE, type NodeFile } from '../../wire/node-file.ts'

/** `sun_path` of unix(7) has 108 bytes, the last of them NUL. */
const SOCKET_PATH_BYTES_MAX = 107
const LOCK_FILE = 'lock'
/** flock(1) ends with this when somebody else has the lock. */
const FLOCK_CONFLICT = 1

const Holder = z.object({ pid: z.int().min(1), startTicks: z.string() })
type Holder = z.infer<typeof Holder>

export interface NodeDirectory extends AsyncDisposable {
  /** Absolute, mode 0700. */
  readonly path: string
  /** Where the API listens; nothing is there yet. */
  readonly socketPath: string
  /** Tells the world: writes node.json, whole or not at all. */
  publish(file: NodeFile): Promise<void>
  /** Removes node.json and the socket, and lets go of the directory. Idempotent. */
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Makes and takes a data directory, and clears what a killed daemon left in it.
 *
 * Throws MESH0105 when another daemon has it, MESH0104 when it cannot be used.
 */
export async function openNodeDirectory(options: {
  /** Absolute. */
  readonly path: string
  /** For the socket, when the path in the data directory is too long for one. */
  readonly temporary: string
  /** The program to lock with; another name in tests. */
  readonly flock?: string
}): Promise<NodeDirectory> {
  const { path } = options
  await makePrivate(path)
  const lock = await takeLock(path, options.flock ?? 'flock')
  const nodeFile = join(path, NODE_FILE)
  let socketPath: string
  try {
    await rm(nodeFile, { force: true })
    socketPath = await placeSocket(path, options.temporary)
  } catch (error) {
    await lock.close()
    throw error
  }
  let disposed: Promise<void> | undefined
  const dispose = async (): Promise<void> => {
    await rm(nodeFile, { force: true })
    await rm(socketPath, { force: true })
    await lock.truncate(0)
    await lock.close()
  }
  return {
    path,
    socketPath,
    async publish(file) {
      const draft = `${nodeFile}.new`
      await writeFile(draft, `${JSON.stringify(file)}\n`, { mode: 0o644 })
      await rename(draft, nodeFile)
    },
    [Symbol.asyncDispose]: () => (disposed ??= dispose()),
  }
}

async function makePrivate(path: string): Promise<void> {
  try {
    await makeDirectories(path, 0o700)
    // It may have been there, and wider: so does systemd make them.
    await chmod(path, 0o700)
  } catch (error) {
    if (isDiskFull(error))
      throw new MeshError('MESH0503', messageOf(error), { where: path, cause: error })
    throw new MeshError('MESH0104', `the data directory cannot be used: ${messageOf(error)}`, {
      where: path,
      hints: ['choose another one: --data DIR'],
      cause: error,
    })
  }
}

/** The open file is the lock: it is held until the file is closed. */
async function takeLock(directory: string, flock: string): Promise<FileHandle> {
  const file = await open(join(directory, LOCK_FILE), 'a+', 0o600)
  try {
    const wasFree = await tryFlock(file, flock)
    // Read after that: what a killed daemon wrote is replaced once the lock is held.
    const holder = parseHolder(await file.readFile('utf8'))
    if (wasFree === false || (wasFree === undefined && (await isRunning(holder))))
      throw heldBy(holder, directory)
    await file.truncate(0)
    const self: Holder = { pid: process.pid, startTicks: (await startTicks(process.pid)) ?? '' }
    await file.write(`${JSON.stringify(self)}\n`)
    return file
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Whether the lock was free; undefined where there is no way to lock. */
async function tryFlock(file: FileHandle, flock: string): Promise<boolean | undefined> {
  const child = spawn(flock, ['--exclusive', '--nonblock', '3'], {
    stdio: ['ignore', 'ignore', 'ignore', file.fd],
  })
  try {
    const [code]: unknown[] = await once(child, 'close')
    return code === 0 ? true : code === FLOCK_CONFLICT ? false : undefined
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'EACCES')) return undefined
    throw error
  }
}

function parseHolder(text: string): Holder | undefined {
  try {
    return Holder.safeParse(JSON.parse(text)).data
  } catch {
    return undefined // empty, or cut off by a crash: whoever wrote it is gone or not done yet
  }
}

/** The process that has the data directory now, if any. */
export async function findHolder(directory: string): Promise<number | undefined> {
  let text: string
  try {
    text = await readFile(join(directory, LOCK_FILE), 'utf8')
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return undefined
    throw error
  }
  const holder = parseHolder(text)
  return (await isRunning(holder)) ? holder?.pid : undefined
}

async function isRunning(holder: Holder | undefined): Promise<boolean> {
  if (holder === undefined || holder.pid === process.pid) return false
  return (await startTicks(holder.pid)) === holder.startTicks
}

/** When a process started, in clock ticks since the boot: with the pid it names one process. See proc_pid_stat(5). */
async function startTicks(pid: number): Promise<string | undefined> {
  let stat: string
  try {
    stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ESRCH')) return undefined
    throw error
  }
  // The second field is the name in parentheses and may hold anything; the start time is field 22.
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
}

function heldBy(holder: Holder | undefined, directory: string): MeshError {
  const who = holder === undefined ? 'another daemon' : `the daemon with pid ${holder.pid}`
  return new MeshError('MESH0105', `the data directory ${directory} is used by ${who}`, {
    hints: [
      `look at it: mesh status --data ${directory}`,
      'or give this daemon a directory of its own: --data DIR',
    ],
  })
}

/** A free path for the socket, at most SOCKET_PATH_BYTES_MAX long. */
async function placeSocket(directory: string, temporary: string): Promise<string> {
  const near = join(directory, SOCKET_FILE)
  const path = fits(near) ? near : join(await makeShortDirectory(directory, temporary), SOCKET_FILE)
  if (!fits(path))
    throw new MeshError(
      'MESH0104',
      `no path for the socket is short enough: ${path} has more than ${SOCKET_PATH_BYTES_MAX} bytes`,
      {
        hints: ['choose a shorter one: --data DIR, or set TMPDIR'],
      },
    )
  await rm(path, { force: true })
  return path
}

const fits = (path: string): boolean => Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX

/** The same directory at each start, so that killed daemons leave one at most. */
async function makeShortDirectory(directory: string, temporary: string): Promise<string> {
  const path = join(temporary, `mesh-${sha256(directory).slice(0, 16)}`)
  try {
    await mkdir(path, { mode: 0o700 })
    return path
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error
  }
  const { uid, mode, isDirectory } = await describe(path)
  if (isDirectory && uid === process.getuid?.() && (mode & 0o077) === 0) return path
  // Somebody else made it first, in a directory where everybody may: leave it to them.
  return mkdtemp(join(temporary, 'mesh-'))
}

async function describe(path: string) {
  const stats = await lstat(path)
  return { uid: stats.uid, mode: stats.mode, isDirectory: stats.isDirectory() }
}
