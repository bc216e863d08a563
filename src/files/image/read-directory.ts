/** A directory, such as debootstrap makes, as an image: what no image holds is left out and counted. */
import { accessSync, constants, type BigIntStats } from 'node:fs'
import { MeshError } from '../../base/errors.ts'
import type { Entry } from '../../wire/tree.ts'
import { ingest, type IngestSink } from '../ingest.ts'
import { kindOf } from '../refusal.ts'
import type { Found } from '../walk.ts'
import { isOfSystem, type LeftOut } from './left-out.ts'

/** Throws MESH0207 for what cannot be read, unless `skipsUnreadable`. */
export async function readDirectory(
  to: { readonly sink: IngestSink; readonly leftOut: LeftOut },
  path: string,
  options: { readonly skipsUnreadable: boolean; readonly signal?: AbortSignal },
): Promise<Entry> {
  const { sink, leftOut } = to
  const leaveOut = ({ path: at, relative, stat }: Found): boolean => {
    if (isOfSystem(relative)) leftOut.add('system', relative)
    else if (!isHeld(stat)) leftOut.add(reasonOf(stat), relative)
    else if (stat.isSymbolicLink() || isReadable(at, stat)) return false
    else if (options.skipsUnreadable) leftOut.add('unreadable', relative)
    else
      throw new MeshError('MESH0207', `${at} cannot be read by this user`, {
        where: at,
        hints: [
          'run it as the user who made the directory, as root, or under fakeroot',
          'leave out what cannot be read: --skip-unreadable',
        ],
      })
    return true
  }
  const { signal } = options
  return ingest(sink, path, { leaveOut, ...(signal === undefined ? {} : { signal }) })
}

const isHeld = (stat: BigIntStats): boolean =>
  stat.isFile() || stat.isDirectory() || stat.isSymbolicLink()

function reasonOf(stat: BigIntStats): 'socket' | 'pipe' | 'device' | 'special' {
  const kind = kindOf(stat)
  return kind === 'socket' || kind === 'pipe' || kind === 'device' ? kind : 'special'
}

function isReadable(path: string, stat: BigIntStats): boolean {
  try {
    accessSync(path, constants.R_OK | (stat.isDirectory() ? constants.X_OK : 0))
    return true
  } catch {
    // Whatever the reason, reading it would fail for the same one.
    return false
  }
}
