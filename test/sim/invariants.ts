/** What must hold in a simulation: after every event, in every message, over the whole history, and at the end. */
import type { Digest } from '../../src/wire/digest.ts'
import type { Fact } from '../../src/wire/facts.ts'
import type { Userland } from '../../src/wire/environment.ts'
import { isLive, runnerOf, type Job, type Request } from '../../src/scheduler/model.ts'
import type { Desired } from '../../src/scheduler/events.ts'
import { STORING_MS_MAX } from '../../src/scheduler/replicas.ts'
import { Scheduler } from '../../src/scheduler/scheduler.ts'
import type { Simulation } from './simulation.ts'

/** The most builds that a derivation of a simulation is to have. */
const VOTES_MAX = 3

/** What the facts on the disk say has happened. */
export class DurableIndex {
  readonly accepted = new Set<string>()
  readonly granted = new Set<string>()
  readonly ended = new Set<string>()

  add(fact: Fact): void {
    if (fact.type === 'accepted') this.accepted.add(fact.request.id)
    if (fact.type === 'granted') this.granted.add(fact.attempt)
    if (fact.type === 'ended') this.ended.add(fact.attempt)
    if (fact.type === 'adopted') this.ended.delete(fact.attempt)
  }
}

/** After every event: at most one live attempt of a job, and reservations that are right and fit. */
export function checkState(sim: Simulation, scheduler: Scheduler): void {
  for (const jobs of scheduler.state.openJobs.values())
    for (const job of jobs) checkJob(sim, scheduler, job)
  for (const node of scheduler.nodes.values()) {
    let cpus = 0
    let memoryBytes = 0
    for (const attempt of node.attempts) {
      cpus += attempt.allotted
      memoryBytes += attempt.memoryBytes
    }
    const { allocated, record } = node
    sim.check(
      allocated.cpus === cpus && allocated.memoryBytes === memoryBytes,
      `${record.name} has ${allocated.cpus} cpus allocated, its attempts have ${cpus}`,
    )
    const { machine } = sim.workerOf(node.peerId)
    sim.check(
      allocated.cpus <= machine.cpus && allocated.memoryBytes <= machine.memoryBytes,
      `${record.name} has ${allocated.cpus} of ${machine.cpus} cpus and ${allocated.memoryBytes} of ${machine.memoryBytes} bytes allocated`,
    )
  }
}

/** The blobs of all that was asked for and is made. */
export function wantedBlobs(request: Request): Digest[] {
  const digests: Digest[] = []
  for (const { isWanted, outputs } of request.steps.values())
    for (const entry of isWanted ? Object.values(outputs ?? {}) : [])
      if (entry.kind !== 'symlink') digests.push(entry.digest)
  return digests
}

/**
 * Since when all of each request is made: it is done once two stores have what was asked for, or when
 * there is no other store, or after a bound; and nobody claims more copies than there are.
 */
export class StoringWatch {
  readonly #sim: Simulation
  readonly #sinceMs = new Map<string, number>()

  constructor(sim: Simulation) {
    this.#sim = sim
  }

  /** After every event. */
  look(scheduler: Scheduler): void {
    const nowMs = this.#sim.clock.nowMs()
    for (const { wire, state, unsettledCount, failedCount } of scheduler.state.requests.values()) {
      if (unsettledCount > 0 || failedCount > 0) this.#sinceMs.delete(wire.id)
      else if (!this.#sinceMs.has(wire.id)) this.#sinceMs.set(wire.id, nowMs)
      else if (state === 'active')
        this.#sim.check(
          nowMs - (this.#sinceMs.get(wire.id) ?? nowMs) <= STORING_MS_MAX,
          `${wire.id} waits for its replicas for more than ${STORING_MS_MAX} ms`,
        )
    }
  }

  onClosed(scheduler: Scheduler, fact: Extract<Fact, { type: 'closed' }>): void {
    const request = scheduler.state.requests.get(fact.request)
    if (fact.state !== 'done' || request === undefined) return
    const digests = wantedBlobs(request)
    const copies = digests.map(
      (digest) =>
        this.#sim.storeIds.filter((peerId) => this.#sim.places.had(digest, peerId)).length +
        Number(request.takesCopy),
    )
    const replicas = fact.replicas ?? 0
    this.#sim.check(
      replicas <= Math.min(2, ...copies),
      `${fact.request} claims ${replicas} replicas, the fewest are ${Math.min(...copies)}`,
    )
    const waitedMs =
      this.#sim.clock.nowMs() - (this.#sinceMs.get(fact.request) ?? this.#sim.clock.nowMs())
    const lacking = [...request.steps.values()].filter(
      ({ isWanted, stores }) => isWanted && stores.size + Number(request.takesCopy) < 2,
    )
    const hasOther = [...scheduler.nodes.values()].some(
      ({ connected, record, peerId }) =>
        connected &&
        record.roles.includes('store') &&
        lacking.some(({ stores }) => !stores.has(peerId)),
    )
    this.#sim.check(
      replicas >= 2 || waitedMs >= STORING_MS_MAX || !hasOther,
      `${fact.request} is done with ${replicas} replicas after ${waitedMs} ms, though another store is there`,
    )
  }
}

function checkJob(sim: Simulation, scheduler: Scheduler, job: Job): void {
  const live = job.attempts.filter(isLive)
  // Who asked for several builds may have left since they were begun.
  sim.check(
    live.length <= (sim.isCompared ? VOTES_MAX : 1),
    `${job.id} has ${live.length} live attempts`,
  )
  const builders = live.map((attempt) => runnerOf(attempt).peerId)
  sim.check(new Set(builders).size === builders.length, `${job.id} runs twice on one node`)
  sim.check(
    new Set(job.votes.map(({ node }) => node.peerId)).size === job.votes.length,
    `${job.id} has two votes of one node`,
  )
  sim.check(
    new Set(job.votes.map(({ action }) => action)).size <= 1,
    `${job.id} compares different actions`,
  )
  sim.check(
    (job.phase === 'leased') === live.length > 0,
    `${job.id} is ${job.phase} with ${live.length} live attempts`,
  )
  sim.check(
    live.length > 0 || job.waiters.size > 0,
    `${job.id} is ${job.phase}, though nobody waits for it`,
  )
  for (const attempt of live) {
    const node = scheduler.nodes.get(attempt.node.peerId)
    sim.check(
      node === undefined || node.attempts.has(attempt),
      `${attempt.id} has no reservation on ${attempt.node.name}`,
    )
  }
  for (const step of job.waiters)
    sim.check(
      step.job === job && step.phase === 'open',
      `${step.id} is ${step.phase} and waits at ${job.id}`,
    )
}

/** Nothing that hangs on a fact leaves before the fact is on the disk. */
export function checkDesired(sim: Simulation, desired: Desired, durable: DurableIndex): void {
  sim.check(
    sim.useEpoch(desired.epoch),
    `epoch ${desired.epoch} was used by an earlier life of the owner`,
  )
  for (const { attempt } of desired.grants)
    sim.check(durable.granted.has(attempt.id), `grant of ${attempt.id} left before it was durable`)
  for (const attempt of desired.ack)
    sim.check(
      durable.ended.has(attempt),
      `acknowledgement of ${attempt} left before it was durable`,
    )
  for (const attempt of desired.cancel)
    sim.check(durable.ended.has(attempt), `cancellation of ${attempt} left before it was durable`)
}

/** No step gets other outputs without a notice. */
export function checkHistory(sim: Simulation, facts: readonly Fact[]): void {
  const pins = new Map<string, string>()
  for (const [at, fact] of facts.entries()) {
    if (fact.type !== 'pinned') continue
    const step = `${fact.request} ${fact.derivation}`
    const outputs = JSON.stringify(fact.outputs)
    const before = pins.get(step)
    pins.set(step, outputs)
    if (before === undefined || before === outputs) continue
    const next = facts[at + 1]
    sim.check(
      next?.type === 'noticed' && next.request === fact.request,
      `${step} got other outputs without a notice`,
    )
  }
}

/** A request never has results of two userlands of one system. */
export function checkUserlands(sim: Simulation, request: Request): void {
  const seen = new Map<string, Userland>()
  for (const step of request.steps.values()) {
    const made =
      step.phase === 'done' && step.action !== undefined
        ? sim.userlands.get(step.action)
        : undefined
    if (made === undefined || made.userland === null) continue
    const { system, userland } = made
    const before = seen.get(system) ?? userland
    sim.check(
      before.base === userland.base,
      `${request.wire.id} mixes two userlands of ${system}: ${step.derivation.name} has another base`,
    )
    for (const [tool, digest] of Object.entries(userland.tools))
      sim.check(
        !(tool in before.tools) || before.tools[tool] === digest,
        `${request.wire.id} mixes two userlands of ${system}: ${step.derivation.name} has another ${tool}`,
      )
    seen.set(system, { base: before.base, tools: { ...before.tools, ...userland.tools } })
  }
}

/** The state that facts alone lead to is the one that was lived. */
export function checkReplay(sim: Simulation, scheduler: Scheduler, facts: readonly Fact[]): void {
  const replayed = new Scheduler({ selfId: '', providersOf: () => [] })
  for (const fact of facts) replayed.replay(fact)
  const [lived, anew] = [durableState(scheduler), durableState(replayed)]
  for (const [name, value] of Object.entries(lived))
    sim.check(value === anew[name], `${name} is ${value} as lived, and ${anew[name]} as replayed`)
  for (const name of Object.keys(anew))
    sim.check(name in lived, `${name} is there only as replayed`)
}

function durableState(scheduler: Scheduler): Record<string, string> {
  const { state } = scheduler
  const lines: Record<string, string> = {
    counts: stable([
      state.epoch,
      state.factSeq,
      state.finishedStepCount,
      [...state.finished].map(({ wire }) => wire.id),
    ]),
    learnt: stable([...state.estimates.snapshot()]),
    open: stable([...state.openJobs].map(([key, jobs]) => [key, [...jobs].map(({ id }) => id)])),
  }
  for (const [id, request] of state.requests) {
    const { bindings, bytes, notices, unsettledCount, failedCount } = request
    lines[id] = stable([
      request.replicasAtEnd ?? null,
      request.takesCopy,
      request.state,
      [...bindings],
      bytes,
      notices,
      unsettledCount,
      failedCount,
    ])
    for (const step of request.steps.values())
      lines[step.id] = stable([
        step.phase,
        step.job?.id,
        step.earlier.map((job) => job.id),
        step.outputs,
        step.rewinds,
        step.rebuild,
        [...step.stores],
        step.hasDiverged,
        step.agreed,
        step.cached,
        step.failure,
      ])
  }
  for (const [id, job] of state.jobs) {
    // Whether it was looked up already is not durable.
    const phase = job.phase === 'lookup' ? 'waiting' : job.phase
    const attempts = job.attempts.map((attempt) => [
      attempt.id,
      isLive(attempt) ? 'live' : attempt.state,
      attempt.error,
    ])
    const waiters = [...job.waiters].map((step) => step.id)
    const shownBy = [...job.shownBy].map((step) => step.id)
    lines[id] = stable([
      phase,
      job.rebuild,
      job.infraFailures,
      [...job.avoid],
      job.votesWanted,
      job.votes,
      waiters,
      shownBy,
      attempts,
    ])
  }
  return lines
}

/** JSON with sorted keys: their order is not part of a value. */
function stable(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}
