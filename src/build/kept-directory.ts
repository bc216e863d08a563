/**
 * What a failed attempt left, made ready to be kept as a tree (`--keep-failed`): its working directory, what
 * it made of its outputs, home and tmp, and a script that runs the command again there.
 *
 * A tree holds files, directories and links with names that are text: what else is there is left out, and
 * named in LEFT_OUT.
 */
import { lstatSync, readdirSync, rmSync, type Stats } from 'node:fs'
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { hasCode } from '../base/errors.ts'
import { quote } from '../base/quote.ts'
import type { Action } from '../wire/action.ts'
import { cidOf } from '../wire/digest.ts'
import { TREE_DEPTH_MAX } from '../wire/tree.ts'
import { takeOwnership } from './attempt-directory.ts'
import { WRITABLE } from './sandbox-layout.ts'

/** Where the tree is made, in the directory of the attempt. */
const KEPT = 'kept'
const RERUN = 'mesh-rerun.sh'
const LEFT_OUT = 'mesh-left-out.txt'
/** Entries that are kept of one attempt; beyond it nothing is. */
const ENTRIES_MAX = 200_000
const LEFT_OUT_MAX = 1_000
/** Between two turns of the event loop. */
const BATCH = 500

export interface KeptDirectory {
  /** Ready for `putTree`. */
  readonly path: string
  readonly sizeBytes: number
}

/** Why nothing is kept, for people. */
export class NotKept extends Error {}

/**
 * Moves what the attempt left below `directory` to a place of its own. No process of the build is alive.
 * Throws NotKept where it is over a limit.
 */
export async function prepareKept(
  directory: string,
  attempt: { readonly id: string; readonly job: string; readonly name: string },
  action: Action,
  { sizeBytesMax }: { readonly sizeBytesMax: number },
): Promise<KeptDirectory> {
  const path = join(directory, KEPT)
  await mkdir(path, { mode: 0o700 })
  for (const name of WRITABLE) {
    const from = join(directory, name)
    if (lstatSync(from, { throwIfNoEntry: false }) === undefined) continue
    await takeOwnership(from)
    await rename(from, join(path, name))
  }
  const { sizeBytes, leftOut } = await clean(path)
  if (sizeBytes > sizeBytesMax)
    throw new NotKept(
      `it has ${sizeBytes} bytes, at most ${sizeBytesMax} are kept (keep-logs-size)`,
    )
  if (leftOut.length > 0)
    await writeFile(
      join(path, LEFT_OUT),
      `No tree can hold these, so they are not here:\n${leftOut.join('\n')}\n`,
    )
  await writeFile(join(path, RERUN), rerunScript(attempt, action), { mode: 0o755 })
  return { path, sizeBytes }
}

/** Removes what no tree can hold. */
async function clean(root: string): Promise<{ sizeBytes: number; leftOut: string[] }> {
  const leftOut: string[] = []
  const pending: { path: Buffer; depth: number }[] = [{ path: Buffer.from(root), depth: 0 }]
  let sizeBytes = 0
  let count = 0
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    if (++count > ENTRIES_MAX) throw new NotKept(`it has more than ${ENTRIES_MAX} entries`)
    if (count % BATCH === 0) await setImmediate()
    const why = whyNot(next.path, next.depth)
    if (typeof why === 'string') {
      rmSync(next.path, { recursive: true, force: true })
      if (leftOut.length < LEFT_OUT_MAX)
        leftOut.push(`${next.path.subarray(Buffer.byteLength(root) + 1).toString()}  ${why}`)
      continue
    }
    if (why.isFile()) sizeBytes += why.size
    if (why.isDirectory())
      for (const name of readdirSync(next.path, { encoding: 'buffer' }))
        pending.push({
          path: Buffer.concat([next.path, Buffer.from('/'), name]),
          depth: next.depth + 1,
        })
  }
  return { sizeBytes, leftOut }
}

/** What it is, or why no tree can hold it. */
function whyNot(path: Buffer, depth: number): Stats | string {
  if (!Buffer.from(path.toString()).equals(path)) return 'its name is no text'
  if (depth >= TREE_DEPTH_MAX) return `it lies deeper than ${TREE_DEPTH_MAX} directories`
  try {
    const stat = lstatSync(path)
    return stat.isFile() || stat.isDirectory() || stat.isSymbolicLink()
      ? stat
      : 'it is no file, directory or link'
  } catch (error) {
    if (hasCode(error, 'ENAMETOOLONG')) return 'its path is too long'
    throw error
  }
}

/** A word of the build as it is where the tree was laid out; only what begins with /build changes. */
function placed(text: string): string {
  if (text === '/build') return '"$here"'
  return text.startsWith('/build/') ? `"$here"${quote(text.slice('/build'.length))}` : quote(text)
}

/**
 * Runs the command again, without walls, in the directory that the script lies in. The inputs are brought
 * from the mesh where they are not there yet.
 */
function rerunScript(
  { id, job, name }: { readonly id: string; readonly job: string; readonly name: string },
  action: Action,
): string {
  const lines = [
    '#!/bin/sh',
    `# ${name} (${job}), attempt ${id}: the command as it was run, in this directory instead of /build.`,
    '# There are no walls around it here: it sees this machine. The directories are as the attempt left them.',
    'set -u',
    'here=$(cd "$(dirname "$0")" && pwd) || exit 1',
  ]
  for (const [path, entry] of action.inputs) {
    const at = placed(path)
    lines.push(
      entry.kind === 'symlink'
        ? `[ -e ${at} ] || [ -L ${at} ] || { mkdir -p "$(dirname ${at})" && ln -s ${placed(entry.target)} ${at}; } || exit 1`
        : `[ -e ${at} ] || { mkdir -p "$(dirname ${at})" && mesh get ${cidOf(entry.digest, entry.kind === 'dir' ? 'object' : 'raw')} -o ${at}; } || exit 1`,
    )
    if (entry.kind === 'file' && entry.executable) lines.push(`chmod +x ${at}`)
  }
  lines.push(`cd ${placed(action.cwd)} || exit 1`)
  const variables = Object.entries(action.env).map(
    ([variable, value]) => `  ${quote(variable)}=${placed(value)} \\`,
  )
  lines.push(
    'exec env -i MESH_JOBS="${MESH_JOBS-1}" \\',
    ...variables,
    `  ${action.argv.map(placed).join(' ')}`,
  )
  return `${lines.join('\n')}\n`
}
