/** What is seen of a machine at one moment: the input of the policies. What cannot be seen is said, never guessed. */

/** Who is, or was last, at the machine. */
export type Presence =
  /** Somebody, who touched it so long ago; undefined where that cannot be told: then they count as there. */
  | {
      readonly kind: 'somebody'
      readonly who: string
      /** `tty2`, `pts/3`, `wayland on seat0`. */
      readonly where: string
      readonly idleMs: number | undefined
    }
  | { readonly kind: 'nobody' }
  /** There is nothing that could tell. */
  | { readonly kind: 'unknown' }

export interface Reading {
  readonly presence: Presence
  /** Processors of the machine, whoever uses them; undefined where they cannot be counted. */
  readonly cpus: number | undefined
  /**
   * Processors that are used by anything but this node and its builds, on average since the last reading;
   * `soon` at the first one, undefined where it cannot be known.
   */
  readonly foreignCpus: number | 'soon' | undefined
  /** Share of the last ten seconds in which everything waited for memory, 0 to 1. */
  readonly memoryStall: number | undefined
  /** What builds could have of memory in all, with what they have now; may be negative. */
  readonly memoryBytes: number | undefined
  readonly isOnBattery: boolean | undefined
  /** What could not be read and why, one line each. */
  readonly missing: readonly string[]
}

export const NOTHING_READ: Reading = {
  presence: { kind: 'unknown' },
  cpus: undefined,
  foreignCpus: undefined,
  memoryStall: undefined,
  memoryBytes: undefined,
  isOnBattery: undefined,
  missing: [],
}
