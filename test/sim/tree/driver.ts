/**
 * Drives the scheduler of one life of a simulated node, as `src/node/owner/owner.ts` does: effects gather
 * while a write is under way, and what hangs on a fact leaves when that is on the disk. A crash loses what
 * is not there yet; a write under way may or may not have made it.
 */
import type { Timer } from '../../../src/base/clock.ts'
import type { Digest } from '../../../src/wire/digest.ts'
import type { Fact } from '../../../src/wire/facts.ts'
import type { ActionResult } from '../../../src/wire/result.ts'
import type { SyncMessage } from '../../../src/wire/work-messages.ts'
import type { Effect, Event, Moment } from '../../../src/scheduler/events.ts'
import { Scheduler } from '../../../src/scheduler/scheduler.ts'
import type { Machine } from './machine.ts'
import type { TreeWorld } from './world.ts'

/** Effects that are not the driver's own. */
export type Outward = Extract<Effect, { type: 'desired' | 'uplink' | 'lookup' | 'copy' | 'check' }>

interface Batch {
  effects: Effect[]
  waiting: (() => void)[]
}

export class Driver {
  readonly scheduler: Scheduler
  readonly #world: TreeWorld
  readonly #machine: Machine
  readonly #onEffect: (effect: Outward) => void
  /** Who has what, as far as this life was told. */
  readonly #providers = new Map<Digest, Set<string>>()
  #batch: Batch = { effects: [], waiting: [] }
  #writing: readonly Effect[] = []
  #isFlushing = false
  syncedSeq = 0
  #timer: Timer | undefined
  #timerAtMs = Number.POSITIVE_INFINITY
  isAlive = true

  constructor(world: TreeWorld, machine: Machine, onEffect: (effect: Outward) => void) {
    this.#world = world
    this.#machine = machine
    this.#onEffect = onEffect
    this.scheduler = new Scheduler({
      selfId: machine.peerId,
      providersOf: (digest) => [...(this.#providers.get(digest) ?? [])],
      hasParents: machine.spec.parents.length > 0,
    })
    for (const fact of machine.disk.facts) this.scheduler.replay(fact)
  }

  start(): void {
    this.#take(this.scheduler.recover(this.moment()))
  }

  moment(): Moment {
    const { clock } = this.#world
    return {
      nowMs: clock.nowMs(),
      wallMs: clock.wallMs() + this.#machine.wallSkewMs,
      ownBlobBytes: 0,
    }
  }

  /** Facts that were applied, whether they are on the disk or not. */
  get allFacts(): Fact[] {
    return [...this.#machine.disk.facts, ...factsOf([...this.#writing, ...this.#batch.effects])]
  }

  apply(event: Event): void {
    if (!this.isAlive) return
    this.#take(this.scheduler.apply(event, this.moment()))
    this.#world.afterEvent(this.#machine, this.scheduler)
  }

  /** Takes in what a node says; results count only as far as their builder is who should have built them. */
  sync(peerId: string, message: SyncMessage): void {
    const results = new Map<string, ActionResult>()
    const known = this.scheduler.nodes.get(peerId)?.finished
    for (const { attempt, outcome, runner } of message.finished) {
      if (outcome.kind !== 'built' || known?.has(attempt) === true) continue
      if (!this.scheduler.state.attempts.has(attempt)) continue
      const result = this.#world.resultOf(outcome.result)
      if (result?.builder.peerId === (runner?.peerId ?? peerId)) results.set(attempt, result)
    }
    this.apply({ type: 'sync', peerId, message, results })
  }

  addProvider(digest: Digest, peerId: string): void {
    this.#providers.set(digest, (this.#providers.get(digest) ?? new Set()).add(peerId))
  }

  provides(result: ActionResult): void {
    for (const entry of Object.values(result.outputs))
      if (entry.kind !== 'symlink') this.addProvider(entry.digest, result.builder.peerId)
  }

  whenSynced(done: () => void): void {
    this.#batch.waiting.push(done)
    this.#flush()
  }

  crash(): void {
    this.isAlive = false
    this.#timer?.cancel()
    if (this.#writing.length === 0 || this.#world.dice.chance(0.4)) return
    this.#commit(this.#writing)
    if (this.#world.dice.chance(0.5)) this.#machine.disk.append(this.#world, factsOf(this.#writing))
  }

  #take(effects: readonly Effect[]): void {
    for (const effect of effects)
      if (effect.type === 'fact') this.#world.onFact(this.#machine, effect.fact)
    this.#batch.effects.push(...effects)
    this.#arm()
    this.#flush()
  }

  #flush(): void {
    if (this.#isFlushing || (this.#batch.effects.length === 0 && this.#batch.waiting.length === 0))
      return
    this.#isFlushing = true
    const { clock } = this.#world
    // Events of one turn of the event loop share a write.
    clock.setTimer(0, () => {
      if (!this.isAlive) return
      const batch = this.#batch
      this.#batch = { effects: [], waiting: [] }
      const seq = this.scheduler.state.factSeq
      const facts = factsOf(batch.effects)
      if (facts.length === 0) this.#written(batch, seq, facts)
      else {
        this.#writing = batch.effects
        clock.setTimer(this.#world.writeMs(), () => {
          if (this.isAlive) this.#written(batch, seq, facts)
        })
      }
    })
  }

  #written(batch: Batch, seq: number, facts: readonly Fact[]): void {
    this.#commit(batch.effects)
    this.#machine.disk.append(this.#world, facts)
    this.#writing = []
    this.syncedSeq = seq
    for (const done of batch.waiting) done()
    const desired = new Set<string>()
    let isUplinkAsked = false
    for (const effect of batch.effects) {
      switch (effect.type) {
        case 'desired':
          if (!desired.has(effect.peerId)) this.#onEffect(effect)
          desired.add(effect.peerId)
          break
        case 'uplink':
          if (!isUplinkAsked) this.#onEffect(effect)
          isUplinkAsked = true
          break
        case 'lookup':
        case 'copy':
        case 'check':
          this.#onEffect(effect)
          break
        case 'fact':
        case 'commit':
        case 'found':
        case 'step':
        case 'request':
          break
      }
    }
    this.#isFlushing = false
    this.#flush()
  }

  #commit(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.type === 'found') this.provides(effect.result)
      if (effect.type !== 'commit') continue
      this.#world.onCommit(this.#machine, effect.result)
      this.#machine.disk.keep(effect.result, effect.signed)
      this.provides(effect.result)
    }
  }

  #arm(): void {
    const next = this.scheduler.nextDeadlineMs()
    if (next === undefined) return
    if (this.#timer !== undefined && this.#timerAtMs <= next) return
    this.#timer?.cancel()
    this.#timerAtMs = next
    this.#timer = this.#world.clock.setTimer(next - this.#world.clock.nowMs(), () => {
      if (!this.isAlive) return
      this.#timer = undefined
      this.#timerAtMs = Number.POSITIVE_INFINITY
      this.apply({ type: 'tick' })
      this.#arm()
    })
  }
}

function factsOf(effects: readonly Effect[]): Fact[] {
  return effects.flatMap((effect) => (effect.type === 'fact' ? [effect.fact] : []))
}
