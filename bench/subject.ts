/** What a bench measures and how it says so: one file `bench/<subject>.bench.ts` exports a `subject`. */

export interface Figure {
  readonly value: number
  readonly unit: string
  /** The same measured for a peer in the same run, or in words what others report. */
  readonly peer?: number | string
  /** value / peer, or what the name of the figure says. */
  readonly ratio?: number
}

/** By name, in the order of the table. */
export type Figures = Readonly<Record<string, Figure>>

export interface Context {
  /** Ends the run; whoever is interrupted stops what it started. */
  readonly signal: AbortSignal
  /** What is being done, for the person who waits. */
  readonly log: (line: string) => void
  /** `quick` ends within about a minute; `long` takes what it needs. Many subjects know one size only. */
  readonly scale: 'quick' | 'long'
}

export interface Subject {
  readonly name: string
  run(context: Context): Promise<Figures>
}

/** A figure next to the same of a peer; there is no ratio to nothing. */
export function compared(value: number, unit: string, peer: number): Figure {
  const both = { value: rounded(value), unit, peer: rounded(peer) }
  return peer === 0 ? both : { ...both, ratio: rounded(value / peer) }
}

export function figure(value: number, unit: string, peer?: string): Figure {
  return { value: rounded(value), unit, ...(peer === undefined ? {} : { peer }) }
}

/** Four digits: more would be noise. */
function rounded(value: number): number {
  return Number(value.toPrecision(4))
}

/** The value below which `share` of the samples lie, by nearest rank. Samples: at least one, in any order. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = samples.toSorted((a, b) => a - b)
  const value = sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]
  if (value === undefined) throw new Error('no samples')
  return value
}

export const median = (samples: readonly number[]): number => quantile(samples, 0.5)

/** Milliseconds that `work` took. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now()
  await work()
  return performance.now() - started
}

/** Lets an interrupt arrive between pieces of work that never wait. */
export const breathe = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve))
