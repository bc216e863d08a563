/** What no tree may hold and what could not be read, in words for the one who asked for it. */
import type { BigIntStats } from 'node:fs'
import { hasCode, MeshError, messageOf } from '../base/errors.ts'

/** `why` follows the path: "is a socket". */
export function refused(path: string, why: string): MeshError {
  return new MeshError('MESH0207', `${path} ${why}`, { where: path })
}

export function changed(path: string): MeshError {
  return refused(path, 'changed while it was read')
}

/** What a failed call on `path` means; what is told already stays as it is. */
export function unreadable(path: string, cause: unknown): MeshError {
  if (cause instanceof MeshError) return cause
  if (hasCode(cause, 'ENOENT'))
    return new MeshError('MESH0205', `${path} does not exist`, { where: path, cause })
  return new MeshError('MESH0207', `${path} cannot be read: ${messageOf(cause)}`, {
    where: path,
    cause,
  })
}

export function kindOf(stat: BigIntStats): string {
  if (stat.isSocket()) return 'socket'
  if (stat.isFIFO()) return 'pipe'
  if (stat.isCharacterDevice() || stat.isBlockDevice()) return 'device'
  return stat.isDirectory() ? 'directory' : 'special file'
}
