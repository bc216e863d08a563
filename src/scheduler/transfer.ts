/** How long a node would be busy fetching the inputs of a waiting job that it does not have. */
import type { Core } from './core.ts'
import type { Job } from './model.ts'

/** What a transfer between two nodes is taken to move; measured ones are of that order in a local network. */
const BYTES_PER_MS = 100_000
/** Inputs of a job that are looked at, the largest ones. */
const INPUTS_MAX = 16
/** Holders of one input that are considered. */
const HOLDERS_MAX = 64
/** With less to fetch than this, where a job runs makes no difference worth looking for. */
const BYTES_MIN = 8 * 2 ** 20
/** Who has them is asked for again after this. */
const FRESH_MS = 5_000

export interface BigInputs {
  readonly totalBytes: number
  readonly inputs: readonly { readonly bytes: number; readonly holders: ReadonlySet<string> }[]
  /** All that have one of them. */
  readonly holders: ReadonlySet<string>
  readonly atMs: number
}

export const NO_INPUTS: BigInputs = { totalBytes: 0, inputs: [], holders: new Set(), atMs: 0 }

/** The largest inputs of the job, with those that have them; nothing for a job with small ones. `known` is an earlier answer. */
export function bigInputsOf(core: Core, job: Job, known: BigInputs | undefined): BigInputs {
  const { nowMs } = core.moment
  if (known !== undefined && (known.totalBytes === 0 || nowMs - known.atMs < FRESH_MS)) return known
  const largest = core.reach
    .inputsOf(job)
    .toSorted((a, b) => b.size - a.size)
    .slice(0, INPUTS_MAX)
  const totalBytes = largest.reduce((sum, { size }) => sum + size, 0)
  if (totalBytes < BYTES_MIN) return { ...NO_INPUTS, atMs: nowMs }
  const all = new Set<string>()
  const inputs = largest.map((input) => {
    const holders = new Set([...core.reach.holdersOf(job, input)].slice(0, HOLDERS_MAX))
    for (const holder of holders) all.add(holder)
    return { bytes: input.size, holders }
  })
  return { totalBytes, inputs, holders: all, atMs: nowMs }
}

/** What the node would need for those that it does not have. */
export function transferMs({ totalBytes, inputs, holders }: BigInputs, peerId: string): number {
  if (totalBytes === 0) return 0
  if (!holders.has(peerId)) return totalBytes / BYTES_PER_MS
  let bytes = 0
  for (const input of inputs) if (!input.holders.has(peerId)) bytes += input.bytes
  return bytes / BYTES_PER_MS
}
