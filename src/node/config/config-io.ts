/**
 * The machine as a configuration sees it: the environment of the process, its user, small files.
 *
 * The only reader of the process's environment in the daemon; tests have a machine of their own.
 */
import { closeSync, openSync, readSync } from 'node:fs'
import { homedir, hostname } from 'node:os'
import { hasCode } from '../../base/errors.ts'

const FILE_BYTES_MAX = 1024 * 1024

/** What the resolution of a configuration may ask of the machine. */
export interface ConfigIo {
  readonly cwd: string
  readonly hostname: string
  readonly home: string
  readonly isRoot: boolean
  /** Whether the log goes to a terminal. */
  readonly isTty: boolean
  /** Undefined when there is no such file. */
  readonly readFile: (path: string) => string | undefined
}

export type Env = Readonly<Record<string, string | undefined>>

/** What only this process may see of its service manager; a build that had it could speak in our name. */
const PRIVATE_VARIABLES = [
  'NOTIFY_SOCKET',
  'WATCHDOG_USEC',
  'WATCHDOG_PID',
  'LISTEN_FDS',
  'LISTEN_PID',
  'LISTEN_FDNAMES',
]

/** The environment of the process, from which the variables of the service manager are taken away. */
export function takeEnvironment(): Env {
  const env = { ...process.env }
  for (const name of PRIVATE_VARIABLES) delete process.env[name]
  return env
}

export function systemConfigIo(env: Env, options: { readonly isTty: boolean }): ConfigIo {
  return {
    cwd: process.cwd(),
    hostname: hostname(),
    home: env['HOME'] || homedir(),
    // Of a user without a name, as in a bare chroot, nothing else is known.
    isRoot: process.getuid?.() === 0,
    isTty: options.isTty,
    readFile: readSmallFile,
  }
}

function readSmallFile(path: string): string | undefined {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return undefined
    throw error
  }
  try {
    const buffer = Buffer.alloc(FILE_BYTES_MAX + 1)
    let length = 0
    for (let count = -1; count !== 0 && length < buffer.length; length += count)
      count = readSync(file, buffer, length, buffer.length - length, null)
    if (length > FILE_BYTES_MAX) throw new Error(`${path} has more than ${FILE_BYTES_MAX} bytes`)
    return buffer.toString('utf8', 0, length)
  } finally {
    closeSync(file)
  }
}
