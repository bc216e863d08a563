/**
 * What proposals look at: a machine as it was found, what was measured on it, and what its person said.
 *
 * Data only. machine-here.ts fills it in for this machine, tests for others.
 */
import type { Isolation } from '../../wire/environment.ts'
import type { Role } from '../../wire/api.ts'
import type { JobKindName } from './job-kinds.ts'

export interface Disk {
  /** The data directory, which need not exist yet. */
  readonly directory: string
  readonly totalBytes: number
  readonly freeBytes: number
  /** Whether the file system holds nothing but the data directory's own mount. */
  readonly isOwn: boolean
}

export interface Machine {
  /** That this process may use. */
  readonly cpus: number
  /** What holds that below the machine's own number, if anything does: one line. */
  readonly cpuLimit?: string
  readonly memoryBytes: number
  readonly memoryLimit?: string
  readonly disk: Disk
  /** How sealed builds are walled in; `none` where they cannot be. */
  readonly walls: { readonly method: string; readonly reasons: readonly string[] }
  /** Why it looks like somebody sits at it, one line each; empty for a server. */
  readonly ownerSigns: readonly string[]
  readonly hasBattery: boolean
  /** `x86_64-linux` ..., its own first. */
  readonly systems: readonly string[]
}

/** How long a build that does nothing takes. */
interface Start {
  readonly isolation: Isolation
  /** Median; absent where it failed. */
  readonly ms?: number
  /** Why it failed. */
  readonly error?: string
}

export interface DiskSpeed {
  readonly writeBytesPerS: number
  readonly readBytesPerS: number
  /** Read from memory, since the disk could not be read past it. */
  readonly isReadCached: boolean
  readonly filesPerS: number
  /** Of one small synced write, on average. */
  readonly syncMs: number
}

export interface Measured {
  /** Of one processor, against the reference machine. */
  readonly speed: number
  /** Work of so many threads at once, in that of one alone; ascending, the last with all processors. */
  readonly scaling: readonly { readonly threads: number; readonly times: number }[]
  /** Processors that others used just before. */
  readonly busyCpus: number
  readonly disk: DiskSpeed
  readonly starts: readonly Start[]
}

/** Which mesh the node is to be part of. */
export type Place =
  | { readonly kind: 'alone' }
  | { readonly kind: 'new' }
  /** `parents` are multiaddrs, at least one. */
  | { readonly kind: 'join'; readonly parents: readonly string[] }

/** What a person decided so far; proposals for the rest follow from it. */
export interface Answers {
  readonly place: Place
  readonly jobs: JobKindName
  readonly roles?: readonly Role[]
  readonly policy?: string
  readonly cpus?: number
  readonly memoryBytes?: number
}
