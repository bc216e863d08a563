/**
 * What is learnt of jobs from how they ended: durations, memory, disk and processors.
 *
 * Outcomes are kept per exact key (the derivation's name and all of its recipe but the contents of its
 * inputs) and per name; what has neither gets the median of all, and the first job of all a plain guess.
 * How long a job takes where its machine emulates another is learnt apart: the factor between the two differs
 * from one program to the next far more than machines do. It is guessed only while one of the two was not seen.
 * Part of the durable state: built by `State.evolve` from facts alone, and written into a snapshot when
 * the journal drops the facts that it came from. Durations are those of a machine of speed 1.
 */
import { sha256 } from '../wire/digest.ts'
import type { Derivation } from '../wire/derivation.ts'
import { OUTCOMES_MAX, type OutcomeKind } from '../wire/facts.ts'
import { EMULATION_SPEED } from './isolation.ts'

/** Keys that are remembered, exact ones and names together; the one learnt longest ago goes. */
export const ESTIMATE_KEYS_MAX = 10_000
/** Keys that one run is remembered under: jobs of several requests may go by several names. */
const KEYS_PER_RUN_MAX = 8
/** Durations of jobs of any kind, for those of which nothing is known. */
const ALL_OUTCOMES_MAX = 256
/** How long a job takes while nothing was ever learnt. */
export const DEFAULT_MS = 10_000
/** The longest duration that is believed: that of the longest limit. */
const DURATION_MS_MAX = 30 * 24 * 3600 * 1000
/** Bytes above which nothing is believed. */
const BYTES_MAX = 2 ** 46
const CPU_SHARE_MAX = 4096
/** With this many outcomes one more counts as at most so many times more, or less, than what is usual. */
const CLAMP_COUNT_MIN = 3
const CLAMP_FACTOR = 8
/** What is reserved beyond what nine of ten runs had. */
const RESERVE_FACTOR = 1.2
/** Characters of a recipe that its key looks at; two that differ only beyond share their estimates. */
const RECIPE_CHARS_MAX = 64 * 1024
const NAME_CHARS_MAX = 128

export interface Outcome {
  readonly kind: OutcomeKind
  /** At speed 1. */
  readonly durationMs: number
  /** 0 where it was not measured; for `memory` what it had when that was not enough. */
  readonly memoryBytes: number
  readonly diskBytes: number
  /** Processors that it kept busy on average; 0 where that is not known. */
  readonly cpuShare: number
}

export interface Estimate {
  /** The median, at speed 1. At least 1. */
  readonly durationMs: number
  /** Nine of ten take at most so long, at speed 1. */
  readonly durationP90Ms: number
  /** To be reserved; 0 where nothing is known. */
  readonly memoryBytes: number
  readonly diskBytes: number
  /** Processors that it keeps busy on average. */
  readonly cpuShare: number
  /** Runs behind the durations; 0 for a guess. */
  readonly sampleCount: number
}

interface Ring {
  /** Oldest first. */
  readonly outcomes: Outcome[]
  /** Computed when it is asked for. */
  estimate: Estimate | undefined
}

interface Keys {
  readonly exact: string
  readonly name: string
}

export class Estimates {
  /** The one learnt longest ago comes first. */
  readonly #rings = new Map<string, Ring>()
  readonly #all: number[] = []
  #fallback: Estimate | undefined
  /** Keys of derivations, which are hashes of long texts. */
  readonly #keys = new WeakMap<Derivation, Keys>()

  /** What to expect of a job of the derivation, natively or where it is emulated. O(1) while nothing new was learnt of it. */
  of(derivation: Derivation, isEmulated = false): Estimate {
    const own = this.#learntOf(derivation, isEmulated)
    if (own.sampleCount > 0) return own
    const other = this.#learntOf(derivation, !isEmulated)
    const known = other.sampleCount > 0 ? other : this.#ofAll()
    const factor =
      other.sampleCount > 0 && !isEmulated ? EMULATION_SPEED : isEmulated ? 1 / EMULATION_SPEED : 1
    // Runs that failed for want of memory tell of memory all the same.
    const memoryBytes = Math.max(known.memoryBytes, own.memoryBytes, other.memoryBytes)
    if (factor === 1 && memoryBytes === known.memoryBytes) return known
    return {
      ...known,
      memoryBytes,
      durationMs: Math.max(1, known.durationMs * factor),
      durationP90Ms: Math.max(1, known.durationP90Ms * factor),
    }
  }

  /** How fast it runs where it is emulated, to a native run on the same machine. */
  emulationSpeedOf(derivation: Derivation): number {
    return this.of(derivation).durationMs / this.of(derivation, true).durationMs
  }

  /** By its exact key, else by its name; without samples only the memory says something. */
  #learntOf(derivation: Derivation, isEmulated: boolean): Estimate {
    const { exact, name } = this.#keysOf(derivation)
    const [ownKey, nameKey] = isEmulated ? [emulated(exact), emulated(name)] : [exact, name]
    const own = this.#estimateOf(ownKey)
    if (own !== undefined && own.sampleCount > 0) return own
    const named = this.#estimateOf(nameKey)
    const memoryBytes = Math.max(own?.memoryBytes ?? 0, named?.memoryBytes ?? 0)
    const best = named !== undefined && named.sampleCount > 0 ? named : NOTHING_LEARNT
    return memoryBytes === best.memoryBytes ? best : { ...best, memoryBytes }
  }

  /** Durations of jobs of any kind, which what has none of its own is expected to be like. */
  get durationCount(): number {
    return this.#all.length
  }

  /** One run had this outcome, for all of the derivations, which may be written differently. */
  learn(derivations: Iterable<Derivation>, outcome: Outcome, isEmulated = false): void {
    const sane = sanitised(outcome)
    const keys = new Set<string>()
    for (const derivation of derivations) {
      const { exact, name } = this.#keysOf(derivation)
      if (isEmulated) keys.add(emulated(exact)).add(emulated(name))
      else keys.add(exact).add(name)
      if (keys.size >= KEYS_PER_RUN_MAX) break
    }
    for (const key of keys) this.#add(key, sane)
    if (sane.kind === 'done' && !isEmulated) this.#addToAll([sane.durationMs])
  }

  /** All that is known, the key learnt longest ago first, to be restored in this order. */
  *snapshot(): Generator<readonly [key: string, outcomes: readonly Outcome[]]> {
    for (let at = 0; at < this.#all.length; at += OUTCOMES_MAX)
      yield [ALL_KEY, this.#all.slice(at, at + OUTCOMES_MAX).map(durationAlone)]
    for (const [key, { outcomes }] of this.#rings) yield [key, outcomes]
  }

  clear(): void {
    this.#rings.clear()
    this.#all.length = 0
    this.#fallback = undefined
  }

  /** Takes in one key of a snapshot. */
  restore(key: string, outcomes: readonly Outcome[]): void {
    const kept = outcomes.slice(-OUTCOMES_MAX).map(sanitised)
    if (key === ALL_KEY) {
      this.#addToAll(kept.map(({ durationMs }) => durationMs))
      return
    }
    this.#rings.delete(key)
    this.#rings.set(key, { outcomes: kept, estimate: undefined })
    this.#trim()
  }

  #addToAll(durationsMs: readonly number[]): void {
    this.#all.push(...durationsMs)
    this.#all.splice(0, Math.max(0, this.#all.length - ALL_OUTCOMES_MAX))
    this.#fallback = undefined
  }

  #keysOf(derivation: Derivation): Keys {
    const known = this.#keys.get(derivation)
    if (known !== undefined) return known
    const name = `n ${derivation.name.slice(0, NAME_CHARS_MAX)}`
    const keys = { name, exact: `x ${reducedKey(derivation)} ${name}` }
    this.#keys.set(derivation, keys)
    return keys
  }

  #estimateOf(key: string): Estimate | undefined {
    const ring = this.#rings.get(key)
    if (ring === undefined) return undefined
    ring.estimate ??= summarise(ring.outcomes)
    return ring.estimate
  }

  #ofAll(): Estimate {
    if (this.#fallback !== undefined) return this.#fallback
    const sorted = this.#all.toSorted((a, b) => a - b)
    const durationMs = sorted.length === 0 ? DEFAULT_MS : quantile(sorted, 0.5)
    this.#fallback = {
      durationMs,
      durationP90Ms: Math.max(durationMs, quantile(sorted, 0.9)),
      memoryBytes: 0,
      diskBytes: 0,
      cpuShare: 1,
      sampleCount: 0,
    }
    return this.#fallback
  }

  #add(key: string, outcome: Outcome): void {
    const before = this.#rings.get(key)
    const usual = before === undefined ? undefined : this.#estimateOf(key)
    const ring: Ring = before ?? { outcomes: [], estimate: undefined }
    ring.outcomes.push(usual === undefined ? outcome : clamped(outcome, usual))
    if (ring.outcomes.length > OUTCOMES_MAX) ring.outcomes.shift()
    ring.estimate = undefined
    this.#rings.delete(key)
    this.#rings.set(key, ring)
    this.#trim()
  }

  #trim(): void {
    const [oldest] = this.#rings.keys()
    if (this.#rings.size > ESTIMATE_KEYS_MAX && oldest !== undefined) this.#rings.delete(oldest)
  }
}

const NOTHING_LEARNT: Estimate = {
  durationMs: DEFAULT_MS,
  durationP90Ms: DEFAULT_MS,
  memoryBytes: 0,
  diskBytes: 0,
  cpuShare: 1,
  sampleCount: 0,
}

/** The key of runs on machines that emulated another; no plain one begins so. */
const emulated = (key: string): string => `e${key}`

/** In a snapshot: the durations of jobs of any kind. No other key looks like it. */
const ALL_KEY = 'all'

const durationAlone = (durationMs: number): Outcome => ({
  kind: 'done',
  durationMs,
  memoryBytes: 0,
  diskBytes: 0,
  cpuShare: 0,
})

/** A short hash of the recipe without the contents of its inputs: what stays when a source changes. */
function reducedKey(derivation: Derivation): string {
  const { builder, args, env, inputs, system, hosts, tools } = derivation
  const recipe = JSON.stringify([
    builder,
    system,
    hosts,
    tools,
    Object.keys(inputs).toSorted(),
    Object.keys(env)
      .toSorted()
      .map((name) => [name, env[name]?.slice(0, 4096)]),
    args.slice(0, 1024).map((arg) => arg.slice(0, 4096)),
  ])
  return sha256(recipe.slice(0, RECIPE_CHARS_MAX)).slice(0, 24)
}

function summarise(outcomes: readonly Outcome[]): Estimate {
  const done = outcomes.filter(({ kind }) => kind === 'done')
  const durations = sortedBy(done, (outcome) => outcome.durationMs)
  // What has just run into a limit took at least so long: no sample, but the tail is not shorter.
  const last = outcomes.findLast(({ kind }) => kind !== 'memory')
  const cutMs = last?.kind === 'limit' ? last.durationMs : 0
  const durationMs = durations.length === 0 ? DEFAULT_MS : quantile(durations, 0.5)
  const shares = sortedBy(
    done.filter(({ cpuShare }) => cpuShare > 0),
    (outcome) => outcome.cpuShare,
  )
  return {
    durationMs,
    durationP90Ms: Math.max(durationMs, cutMs, quantile(durations, 0.9)),
    memoryBytes: memoryOf(outcomes),
    diskBytes: reserved(sortedBy(done, (outcome) => outcome.diskBytes)),
    cpuShare: shares.length === 0 ? 1 : quantile(shares, 0.5),
    sampleCount: done.length,
  }
}

/** What nine of ten runs had and a margin; twice what was not enough where nothing has run well since. */
function memoryOf(outcomes: readonly Outcome[]): number {
  const peaks = sortedBy(
    outcomes.filter(({ kind, memoryBytes }) => kind === 'done' && memoryBytes > 0),
    (outcome) => outcome.memoryBytes,
  )
  const last = outcomes.findLast(({ kind }) => kind === 'done' || kind === 'memory')
  const doubled = last?.kind === 'memory' ? 2 * last.memoryBytes : 0
  return Math.min(BYTES_MAX, Math.max(reserved(peaks), doubled))
}

const reserved = (sorted: readonly number[]): number =>
  sorted.length === 0 ? 0 : Math.ceil(quantile(sorted, 0.9) * RESERVE_FACTOR)

const sortedBy = (outcomes: readonly Outcome[], of: (outcome: Outcome) => number): number[] =>
  outcomes.map(of).toSorted((a, b) => a - b)

/** The smallest of the sorted values that at least the share `q` of them does not exceed. */
function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(sorted.length * q) - 1))] ?? 0
}

/** One run that is far from all others moves an estimate by a bounded step; a lasting change still gets through. */
function clamped(outcome: Outcome, usual: Estimate): Outcome {
  if (outcome.kind !== 'done' || usual.sampleCount < CLAMP_COUNT_MIN) return outcome
  const { durationMs } = usual
  return {
    ...outcome,
    durationMs: Math.round(
      Math.min(durationMs * CLAMP_FACTOR, Math.max(durationMs / CLAMP_FACTOR, outcome.durationMs)),
    ),
    memoryBytes:
      usual.memoryBytes === 0
        ? outcome.memoryBytes
        : Math.min(usual.memoryBytes * CLAMP_FACTOR, outcome.memoryBytes),
  }
}

function sanitised(outcome: Outcome): Outcome {
  return {
    kind: outcome.kind,
    durationMs: Math.max(1, amount(outcome.durationMs, DURATION_MS_MAX)),
    memoryBytes: amount(outcome.memoryBytes, BYTES_MAX),
    diskBytes: amount(outcome.diskBytes, BYTES_MAX),
    cpuShare: Number.isFinite(outcome.cpuShare)
      ? Math.min(CPU_SHARE_MAX, Math.max(0, outcome.cpuShare))
      : 0,
  }
}

function amount(value: number, max: number): number {
  return Number.isNaN(value) ? 0 : Math.round(Math.min(max, Math.max(0, value)))
}
