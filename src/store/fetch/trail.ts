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
  /** Those that `next` gave: they may be at work still, with no result yet. */
  readonly #named = new Set<string>()
  #turn: Promise<unknown> = Promise.resolve()

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

  /**
   * Who is asked next; nobody is named twice but for the rest of what it began. One caller after the other:
   * a stage that takes long is waited for by all. Takes no source once `isWanted` is false.
   */
  next(nowMs: () => number, isWanted: () => boolean = () => true): Promise<BlobSource | undefined> {
    return this.#inTurn(async () => {
      const trusted = await this.#take(nowMs, isWanted)
      if (trusted !== undefined || !isWanted()) return trusted
      return takeFirst(this.#banned, (source) => this.#isNew(source))
    })
  }

  /** Like `next`, without those that lied lately. */
  nextTrusted(
    nowMs: () => number,
    isWanted: () => boolean = () => true,
  ): Promise<BlobSource | undefined> {
    return this.#inTurn(() => this.#take(nowMs, isWanted))
  }

  #inTurn(take: () => Promise<BlobSource | undefined>): Promise<BlobSource | undefined> {
    const taken = this.#turn.then(take)
    this.#turn = taken.catch(() => undefined) // its caller is told
    return taken
  }

  async #take(nowMs: () => number, isWanted: () => boolean): Promise<BlobSource | undefined> {
    const isOpen = (source: BlobSource): boolean => this.#isOpen(source, nowMs())
    while (isWanted()) {
      const source = takeFirst(this.#ready, isOpen)
      if (source !== undefined) return source
      const stage = this.#stages.shift()
      if (stage === undefined)
        return (
          takeFirst(this.#later, isOpen) ??
          takeFirst(this.#again, (again) => !this.#health.isBanned(again, nowMs()))
        )
      const { first, last } = this.#health.inOrder(await stage(), nowMs())
      this.#ready = first
      this.#later.push(...last)
    }
    return undefined
  }

  #isOpen(source: BlobSource, nowMs: number): boolean {
    if (!this.#health.isBanned(source, nowMs)) return this.#isNew(source)
    this.#banned.push(source)
    return false
  }

  #isNew(source: BlobSource): boolean {
    if (this.#results.has(source.name) || this.#named.has(source.name)) return false
    this.#named.add(source.name)
    return true
  }

  /** `madeProgress`: it may be asked for the rest later. */
  note(source: BlobSource, result: string, madeProgress = false): void {
    this.#results.set(source.name, result)
    const resumes = this.#resumes.get(source.name) ?? 0
    if (!madeProgress || resumes >= RESUMES_MAX) return
    this.#resumes.set(source.name, resumes + 1)
    this.#again.push(source)
  }

  /** The best rate among those that would be asked next, as far as it is known. */
  get bestBytesPerS(): number {
    const rates = this.#ready.map((source) => this.#health.bytesPerS(source) ?? 0)
    return Math.max(0, ...rates)
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

/** The first that is right; those before it are dropped. */
function takeFirst<T>(list: T[], isRight: (item: T) => boolean): T | undefined {
  for (let item = list.shift(); item !== undefined; item = list.shift())
    if (isRight(item)) return item
  return undefined
}

/** Anything that a source threw, as an error of that source. */
export function asSourceError(error: unknown): SourceError {
  if (error instanceof SourceError) return error
  return new SourceError('failed', error instanceof Error ? error.message : String(error), {
    cause: error,
  })
}
