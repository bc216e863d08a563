/**
 * Which daemon to talk to: what the command line names, else the environment, else the usual places.
 *
 * An explicit choice is never passed over for another daemon. Nothing is ever started.
 */
import { readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { userInfo } from 'node:os'
import { isAbsolute, join, resolve } from 'node:path'
import { MeshError, messageOf } from '../base/errors.ts'
import { NODE_FILE, NodeFile } from '../wire/node-file.ts'
import type { Arguments } from './command.ts'
import type { Context } from './context.ts'

const NODE_FILE_BYTES_MAX = 64 * 1024
/** The data directory of a daemon of the system. */
const SYSTEM_DATA = '/var/lib/mesh'

/** One place, and why no daemon was found there. */
interface Attempt {
  readonly place: string
  readonly problem: string
  readonly denied: boolean
}

/** The path of a socket that accepts connections. Throws MESH0101, or MESH0102 where one may not be used. */
export async function findSocket(context: Context, args: Arguments): Promise<string> {
  const attempts: Attempt[] = []
  for (const candidate of candidates(context, args)) {
    const socket =
      candidate.kind === 'socket' ? candidate.path : await socketOf(candidate.path, attempts)
    if (socket === undefined) continue
    const error = await probe(socket)
    if (error === undefined) return socket
    attempts.push({ place: socket, ...describe(error) })
  }
  throw notFound(attempts)
}

function candidates(
  { env, cwd }: Context,
  args: Arguments,
): { readonly kind: 'socket' | 'data'; readonly path: string }[] {
  const socket = args.text('socket')
  if (socket !== undefined) return [{ kind: 'socket', path: resolve(cwd, socket) }]
  const data = args.text('data')
  if (data !== undefined) return [{ kind: 'data', path: resolve(cwd, data) }]
  const fromEnv = env['MESH_SOCKET']
  if (fromEnv) return [{ kind: 'socket', path: resolve(cwd, fromEnv) }]
  // The XDG specification says that a relative path is to be ignored.
  const xdg = env['XDG_DATA_HOME']
  const home = env['HOME'] || userInfo().homedir
  const dataHome = xdg && isAbsolute(xdg) ? xdg : join(home, '.local/share')
  return [
    { kind: 'data', path: join(dataHome, 'mesh') },
    { kind: 'data', path: SYSTEM_DATA },
  ]
}

/** The socket that node.json of a data directory names; undefined with a further attempt where there is none. */
async function socketOf(directory: string, attempts: Attempt[]): Promise<string | undefined> {
  const place = join(directory, NODE_FILE)
  let bytes: Buffer
  try {
    bytes = await readFile(place)
  } catch (error) {
    attempts.push({ place, ...describe(error) })
    return undefined
  }
  const parsed = NodeFile.safeParse(
    bytes.length > NODE_FILE_BYTES_MAX ? undefined : parseJson(bytes),
  )
  if (!parsed.success) {
    attempts.push({
      place,
      problem: 'is not the node.json of a daemon of this version',
      denied: false,
    })
    return undefined
  }
  const { pid, socket } = parsed.data
  if (!isAlive(pid)) {
    attempts.push({
      place,
      problem: `its daemon (pid ${pid}) is not running any more`,
      denied: false,
    })
    return undefined
  }
  return socket
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch {
    return undefined // the caller says what is wrong with anything that is no node.json
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return describe(error).denied // EPERM: it lives, as another user
  }
}

/** Undefined when something listens there. */
function probe(path: string): Promise<unknown> {
  return new Promise((done) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      done(undefined)
    })
    socket.once('error', done)
  })
}

const EXPLAINED: Readonly<Record<string, string>> = {
  ENOENT: 'no such file',
  ECONNREFUSED: 'nothing listens there',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  ENOTSOCK: 'not a socket',
  ENOTDIR: 'not a directory',
}

function describe(error: unknown): { problem: string; denied: boolean } {
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  const words = EXPLAINED[code]
  return {
    problem: words === undefined ? messageOf(error) : `${words} (${code})`,
    denied: code === 'EACCES' || code === 'EPERM',
  }
}

function notFound(attempts: readonly Attempt[]): MeshError {
  const tried = attempts.map(({ place, problem }) => `tried ${place}: ${problem}`).join('\n')
  if (attempts.some(({ denied }) => denied))
    return new MeshError(
      'MESH0102',
      `the user ${userInfo().username} may not use the socket of the daemon\n${tried}`,
      {
        hints: [
          'members of the group "mesh" may use a daemon of the system: sudo usermod -aG mesh USER, then log in again',
        ],
      },
    )
  return new MeshError('MESH0101', `the mesh daemon is not running on this machine\n${tried}`, {
    hints: ['start it: mesh-node', 'or name another one: --data DIR, --socket PATH or MESH_SOCKET'],
  })
}
