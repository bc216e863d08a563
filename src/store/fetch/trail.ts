/**
 * The way of one fetch through its sources: who is asked next, who was asked already, and what each said.
 * The last is the text that a person reads when nobody had the blob.
 */
import { MeshError } from '../../base/errors.ts'
import { cidOf, type BlobRef } from '../../wire/digest.ts'
import { SourceError, type BlobSource } from '../blob-source.ts'
import type { SourceHealth } from './source-health.ts'

/** How often a source that broke off is asked for the rest, when no other is left. */
const RESUMES_MAX = 3
/** Sources named in a message. */
const NAMED_MAX = 20

export class Trail {
  readonly #health: SourceHealth
  readonly #stages: (() => Promise<readonly BlobSource[]>)[]
  readonly #results: Map<string, string>
  #ready: BlobSource[] = []
  /** Those that failed lately: after all stages. */
  #later: BlobSource[] = []
  /** Those that broke off midway: after everything else. */
  readonly #again: BlobSource[] = []
  /** Those that lied lately: last of all, for what was wrong may have been put right. */
  readonly #banned: BlobSource[] = []
  readonly #resumes = new Map<string, number>()

  /** Stages are asked in order, each only when the sources of the one before are used up. */
  constructor(
    deps: { readonly health: SourceHealth },
    stages: readonly (() => Promise<readonly BlobSource[]>)[],
    results: ReadonlyMap<string, string> = new Map(),
  ) {
    this.#health = deps.health
    this.#stages = [...stages]
    this.#results = new Map(results)
  }

  /** Sources that have nothing more to say, with their answers. */
  get results(): ReadonlyMap<string, string> {
    const results = new Map(this.#results)
    for (const { name } of this.#again) results.delete(name)
    return results
  }

  async next(nowMs: () => number): Promise<BlobSource | undefined> {
    for (;;) {
      const source = this.#ready.shift()
      if (source !== undefined) {
        if (this.#isOpen(source, nowMs())) return source
        continue
      }
      const stage = this.#stages.shift()
      if (stage === undefined) break
      const { first, last } = this.#health.inOrder(await stage(), nowMs())
      this.#ready = first
      this.#later.push(...last)
    }
    for (let source = this.#later.shift(); source !== undefined; source = this.#later.shift())
      if (this.#isOpen(source, nowMs())) return source
    for (let source = this.#again.shift(); source !== undefined; source = this.#again.shift())
      if (!this.#health.isBanned(source, nowMs())) return source
    for (let source = this.#banned.shift(); source !== undefined; source = this.#banned.shift())
      if (!this.#results.has(source.name)) return source
    return undefined
  }

  #isOpen(source: BlobSource, nowMs: number): boolean {
    if (this.#results.has(source.name)) return false
    if (!this.#health.isBanned(source, nowMs)) return true
    this.#banned.push(source)
    return false
  }

  /** `madeProgress`: it may be asked for the rest later. */
  note(source: BlobSource, result: string, madeProgress = false): void {
    this.#results.set(source.name, result)
    const resumes = this.#resumes.get(source.name) ?? 0
    if (!madeProgress || resumes >= RESUMES_MAX) return
    this.#resumes.set(source.name, resumes + 1)
    this.#again.push(source)
  }

  /** Whether the source is not being tried for the first time. */
  isResumed(source: BlobSource): boolean {
    return this.#resumes.has(source.name)
  }

  notAvailable(ref: BlobRef): MeshError {
    const lines = [...this.#results]
      .slice(0, NAMED_MAX)
      .map(([name, result]) => `  ${name}: ${result}`)
    if (this.#results.size > NAMED_MAX) lines.push(`  and ${this.#results.size - NAMED_MAX} more`)
    if (lines.length === 0) lines.push('  no source is known')
    return new MeshError(
      'MESH0501',
      [`no source gave ${cidOf(ref.digest)} (${ref.size} bytes)`, ...lines].join('\n'),
      {
        where: cidOf(ref.digest),
      },
    )
  }
}

/** Anything that a source threw, as an error of that source. */
export function asSourceError(error: unknown): SourceError {
  if (error instanceof SourceError) return error
  return new SourceError('failed', error instanceof Error ? error.message : String(error), {
    cause: error,
  })
}
