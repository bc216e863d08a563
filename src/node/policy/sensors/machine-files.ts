/** Small files of the kernel and of the system, below the root that the machine is seen at. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { hasCode } from '../../../base/errors.ts'

/** Names in one directory that are looked at. */
const NAMES_MAX = 1024

/** They are a few hundred bytes that no disk is asked for: reading them at once costs less than a thread. */
export class MachineFiles {
  readonly root: string

  /** `root` is `/`, or where a container has mounted its host's `/proc`, `/sys`, `/run` and `/dev`. */
  constructor(root: string) {
    this.root = root
  }

  /** Undefined where there is none, or it may not be read. */
  read(path: string): string | undefined {
    return quietly(() => readFileSync(join(this.root, path), 'utf8'))
  }

  /** Sorted; undefined where there is no such directory. */
  list(path: string): string[] | undefined {
    return quietly(() => readdirSync(join(this.root, path)).toSorted().slice(0, NAMES_MAX))
  }

  /** When it was last read, in ms since the epoch, and whose it is. */
  touched(path: string): { readonly atWallMs: number; readonly uid: number } | undefined {
    return quietly(() => {
      const { atimeMs, uid } = statSync(join(this.root, path))
      return { atWallMs: atimeMs, uid }
    })
  }
}

/** Of a machine there is much that some kernel, container or user does not let us see. */
function quietly<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    if (
      !hasCode(
        error,
        'ENOENT',
        'ENOTDIR',
        'EACCES',
        'EPERM',
        'ESRCH',
        'ENODEV',
        'EIO',
        'EINVAL',
        'EOPNOTSUPP',
      )
    )
      throw error
    return undefined
  }
}
