/**
 * How a plain build is started where it has control groups: by a shell that waits until it is in them, and
 * then becomes the build. Started at once, it could have left processes outside before it is taken in.
 */
import { accessSync, closeSync, constants, existsSync, openSync, readSync, statSync } from 'node:fs'
import { resolve } from 'node:path'

const ENV = '/usr/bin/env'
const SHELL = '/bin/sh'
/** Waits for a line on descriptor 3. The shell is gone by then, and what it exports with it. */
const GATE = `read -r go <&3 || exit 125; exec 3<&-; exec ${ENV} -i "$@"`
/** What a kernel reads of a script to find its interpreter. */
const HEAD_BYTES = 256

interface PlainBuild {
  readonly builder: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
  readonly cwd: string
}

/** Undefined where it can only be started at once. Throws ENOENT or EACCES for a builder that cannot be. */
export function gatedCommand({
  builder,
  args,
  env,
  cwd,
}: PlainBuild): { readonly command: string; readonly args: readonly string[] } | undefined {
  if (!existsSync(ENV) || !existsSync(SHELL)) return undefined
  const program = findBuilder(builder, env['PATH'] ?? '/usr/bin:/bin', cwd)
  // It would be taken for a variable.
  if (program.includes('=')) return undefined
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  return { command: SHELL, args: ['-c', GATE, 'sh', ...variables, program, ...args] }
}

/** As execvp(3) would find it. */
function findBuilder(builder: string, path: string, cwd: string): string {
  const candidates = builder.includes('/')
    ? [resolve(cwd, builder)]
    : path.split(':').map((directory) => resolve(cwd, directory, builder))
  const found = candidates.find(isProgram)
  if (found === undefined) {
    const isThere = candidates.some((candidate) => existsSync(candidate))
    throw Object.assign(new Error(isThere ? 'it is not executable' : 'there is no such program'), {
      code: isThere ? 'EACCES' : 'ENOENT',
    })
  }
  const interpreter = interpreterOf(found)
  if (interpreter !== undefined && !existsSync(resolve(cwd, interpreter)))
    throw Object.assign(new Error(`its interpreter ${interpreter} is not there`), {
      code: 'ENOENT',
    })
  return found
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}

/** Of a script; undefined for other programs, and for those that may be run but not read. */
function interpreterOf(path: string): string | undefined {
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch {
    return undefined
  }
  try {
    const head = Buffer.alloc(HEAD_BYTES)
    const length = readSync(fd, head, 0, HEAD_BYTES, 0)
    return /^#![ \t]*([^ \t\n\0]+)/.exec(head.toString('latin1', 0, length))?.[1]
  } finally {
    closeSync(fd)
  }
}
