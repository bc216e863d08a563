/** What must hold in a simulated tree: after every event at the node that it happened at, in every message, and at the end. */
import type { Digest } from '../../../src/wire/digest.ts'
import type { ActionResult } from '../../../src/wire/result.ts'
import type { DesiredMessage, Lease } from '../../../src/wire/work-messages.ts'
import { isLive, type NodeEntry, type Request, type Step } from '../../../src/scheduler/model.ts'
import type { Scheduler } from '../../../src/scheduler/scheduler.ts'
import { behaviourOf, SLOW_MS } from '../sim-worker.ts'
import type { Machine } from './machine.ts'
import type { TreeSimulation } from './tree-simulation.ts'

/** After every event: jobs and their attempts agree, and reservations are what is live, and fit. */
export function checkNode(sim: TreeSimulation, machine: Machine, scheduler: Scheduler): void {
  for (const jobs of scheduler.state.openJobs.values())
    for (const job of jobs) {
      const live = job.attempts.filter(isLive)
      sim.check(
        (job.phase === 'leased') === live.length > 0,
        () => `${machine.name}: ${job.id} is ${job.phase} with ${live.length} live attempts`,
      )
      for (const step of job.waiters)
        sim.check(
          step.job === job && step.phase === 'open',
          () => `${machine.name}: ${step.id} is ${step.phase} and waits at ${job.id}`,
        )
    }
  for (const node of scheduler.nodes.values()) checkReservations(sim, machine, node)
}

function checkReservations(sim: TreeSimulation, machine: Machine, node: NodeEntry): void {
  let cpus = 0
  let memoryBytes = 0
  for (const attempt of node.attempts) {
    cpus += attempt.allotted
    memoryBytes += attempt.memoryBytes
  }
  for (const { reserved } of node.relayed.values()) {
    cpus += reserved.cpus
    memoryBytes += reserved.memoryBytes
  }
  const { allocated, record } = node
  const where = (): string => `${machine.name} of ${record.name}`
  sim.check(
    allocated.cpus === cpus && allocated.memoryBytes === memoryBytes,
    () => `${where()}: ${allocated.cpus} cpus allocated, what it holds has ${cpus}`,
  )
  const builds = sim.machineBy(node.peerId)?.spec.builds
  if (builds === undefined || builds.isLiar) return
  // What was granted to a subtree runs somewhere in it, also when its node is alone for a while.
  if (node.peerId !== machine.peerId && sim.isParent(node.record.name)) return
  sim.check(
    allocated.cpus <= builds.cpus && allocated.memoryBytes <= builds.memoryBytes,
    () =>
      `${where()}: ${allocated.cpus} of ${builds.cpus} cpus and ${allocated.memoryBytes} of ${builds.memoryBytes} bytes allocated`,
  )
}

/** What is known of the whole run, whatever single nodes have forgotten. */
export class History {
  readonly #sim: TreeSimulation
  readonly #isCalm: boolean
  /** By granter and epoch: which life of it. */
  readonly #lives = new Map<string, string>()
  /** Where each attempt was begun. */
  readonly #begun = new Map<string, Set<string>>()
  /** What was committed where, by owner and action. */
  readonly #commits = new Map<string, ActionResult>()
  readonly #builds = new Map<string, number>()
  buildCount = 0
  rebuildCount = 0
  readonly #peaks = new Map<string, number>()

  constructor(sim: TreeSimulation, isCalm: boolean) {
    this.#sim = sim
    this.#isCalm = isCalm
  }

  onKill(machine: Machine): void {
    this.#peaks.delete(machine.name)
  }

  /** Nothing that hangs on a fact leaves before the fact is on the disk, and no two lives grant under one epoch. */
  onDesired(granter: Machine, peerId: string, message: DesiredMessage): void {
    const { disk, boot } = granter
    const epoch = `${granter.peerId} ${message.epoch}`
    const life = this.#lives.get(epoch) ?? boot
    this.#lives.set(epoch, life)
    this.#sim.check(
      life === boot,
      () => `${granter.name} grants under epoch ${message.epoch} again`,
    )
    const scheduler = granter.process?.driver.scheduler
    const { attempts } = scheduler?.state ?? {}
    this.#checkNesting(granter, scheduler?.leaseUntilMs, message)
    for (const { attempt } of message.grants)
      this.#sim.check(
        attempts?.has(attempt) !== true || disk.granted.has(attempt),
        () => `${granter.name}: the grant of ${attempt} left before it was durable`,
      )
    for (const attempt of message.ack)
      this.#sim.check(
        attempts?.has(attempt) !== true ||
          disk.ended.has(attempt) ||
          attempts.get(attempt)?.node.peerId !== peerId,
        () => `${granter.name}: ${attempt} was acknowledged before its end was durable`,
      )
  }

  /** Leases nest: what a node is told as the end of its lease is not after that of whoever passes it on. */
  #checkNesting(
    granter: Machine,
    untilMs: number | undefined,
    { grants, leaseMs = 0 }: DesiredMessage,
  ): void {
    const { attempts } = granter.process?.driver.scheduler.state ?? {}
    // The receiver counts from when it sent what this answers, which was earlier.
    const endMs = this.#sim.clock.nowMs() + leaseMs
    for (const { attempt } of grants)
      this.#sim.check(
        attempts?.has(attempt) === true || untilMs === undefined || endMs <= untilMs,
        () => `${granter.name} passes ${attempt} on until ${endMs}, and has it until ${untilMs}`,
      )
  }

  onBegin(machine: Machine, lease: Lease): void {
    const where = this.#begun.get(lease.attempt) ?? new Set()
    this.#begun.set(lease.attempt, where.add(machine.peerId))
    this.#sim.check(
      where.size === 1,
      () => `${lease.attempt} was begun on ${where.size} nodes, the last one is ${machine.name}`,
    )
  }

  someAttemptOfOthers(machine: Machine): string | undefined {
    const others = [...this.#begun].filter(([, where]) => !where.has(machine.peerId))
    return others.length === 0 ? undefined : this.#sim.dice.pick(others)[0]
  }

  /** A machine never does more at once than it has. */
  onTaken(machine: Machine): void {
    const { builds } = machine.spec
    if (builds === undefined || builds.isLiar) return
    let cpus = 0
    let memoryBytes = 0
    for (const run of machine.process?.children.builder?.running.values() ?? []) {
      cpus += run.cpus
      memoryBytes += run.lease.memoryBytes
    }
    this.#sim.check(
      cpus <= builds.cpus && memoryBytes <= builds.memoryBytes,
      () =>
        `${machine.name} runs ${cpus} cpus and ${memoryBytes} bytes at once, it has ${builds.cpus} and ${builds.memoryBytes}`,
    )
  }

  onBuilt(machine: Machine, lease: Lease, _result: ActionResult): void {
    this.buildCount += 1
    const build = `${lease.jobKey} with ${JSON.stringify(lease.userland)}`
    const count = (this.#builds.get(build) ?? 0) + 1
    this.#builds.set(build, count)
    if (count > 1) this.rebuildCount += 1
    this.#sim.check(
      !this.#isCalm || count === 1,
      () =>
        `${lease.name} (${lease.jobKey}) was built ${count} times, the last time on ${machine.name}, though nobody who builds was lost`,
    )
  }

  /** One owner never takes two different results of one action as its own. */
  onCommit(machine: Machine, result: ActionResult): void {
    const key = `${machine.peerId} ${result.action}`
    const before = this.#commits.get(key)
    this.#commits.set(key, result)
    const { scheduler } = machine.process?.driver ?? {}
    if (before === undefined || scheduler === undefined) return
    if (outputsOf(before) === outputsOf(result)) return
    const hasLostBefore = [...scheduler.state.steps.values()].some(
      ({ action, hasDiverged, rewinds }) =>
        action === result.action && (hasDiverged || rewinds > 0),
    )
    this.#sim.check(
      hasLostBefore || this.#sim.hasLiars || isRandom(scheduler, result.jobKey),
      () => `${machine.name} committed two different results of ${result.action}`,
    )
  }
}

const outputsOf = ({ outputs }: ActionResult): string => JSON.stringify(outputs)

function isRandom(scheduler: Scheduler, key: Digest): boolean {
  return [...scheduler.state.steps.values()].some(
    (step) => step.key === key && behaviourOfStep(step) === 'random',
  )
}

interface Expected {
  readonly isImpossible: boolean
  readonly hasCancelled: boolean
  /** Two nodes answered for it, since the one could not hear of the other. */
  readonly hasDouble: boolean
}

export function checkEnd(sim: TreeSimulation, request: Request, expected: Expected): void {
  const { id, noWait } = request.wire
  const steps = [...request.steps.values()]
  const phases = (): string =>
    steps.map((step) => `${step.derivation.name} ${step.phase}`).join(', ')
  switch (request.state) {
    case 'active':
      sim.check(false, () => `${id} has not ended: ${phases()}`)
      return
    case 'cancelled':
      sim.check(
        expected.hasCancelled || expected.hasDouble,
        `${id} is cancelled, and nobody cancelled it`,
      )
      return
    case 'done':
      sim.check(
        steps.every((step) => step.phase === 'done' && step.outputs !== undefined),
        () => `${id} is done: ${phases()}`,
      )
      sim.check(
        steps.every((step) => behaviourOfStep(step) !== 'fail'),
        `${id} is done, though one of it always fails`,
      )
      return
    case 'failed': {
      const failed = steps.filter((step) => step.phase === 'failed')
      sim.check(failed.length > 0, () => `${id} has failed without a failure: ${phases()}`)
      for (const step of failed) checkReason(sim, step, expected, noWait)
    }
  }
}

/** A failure must have its true reason. */
function checkReason(
  sim: TreeSimulation,
  step: Step,
  { isImpossible }: Expected,
  noWait: boolean,
): void {
  const code = step.failure?.code ?? ''
  const behaviour = behaviourOfStep(step)
  const isEventful = sim.mood === 'rough'
  const isTrue: Record<string, boolean> = {
    MESH0401: behaviour === 'fail',
    MESH0402: behaviour === 'slow' && step.derivation.run.timeoutMs < 4 * SLOW_MS,
    MESH0301: noWait && (isImpossible || isEventful),
    MESH0505: isEventful,
    MESH0506: isEventful,
    MESH0507: isEventful,
  }
  sim.check(
    isTrue[code] === true,
    () =>
      `${step.request.wire.id} ${step.derivation.name} (${behaviour}) failed with ${code}: ${step.failure?.message}`,
  )
}

interface Rest {
  /** Jobs wait here for good reason. */
  readonly isWaiting: boolean
  /** Nobody above it is a root by its settings: what was granted by nodes that are gone is kept for them. */
  readonly isHeadless: boolean
}

/** At rest nothing runs, nothing is kept, and no level has a reservation or a lease left. */
export function checkRest(
  sim: TreeSimulation,
  machine: Machine,
  { isWaiting, isHeadless }: Rest,
): void {
  const { name, process } = machine
  if (process === undefined) {
    sim.check(false, `${name} is not there`)
    return
  }
  const { builder } = process.children
  const { scheduler } = process.driver
  const passedOn = [...scheduler.relayed]
  const rest: Record<string, number> = {
    'attempts that run': builder?.running.size ?? 0,
    'leases that are passed on': passedOn.filter(({ finished }) => finished === undefined).length,
    'requests that wait to be handed over': machine.disk.outbox.size,
    ...(isHeadless
      ? {}
      : {
          'outcomes that are kept': builder?.finished.size ?? 0,
          'outcomes of others that are kept': passedOn.length,
        }),
    ...(isWaiting
      ? {}
      : {
          queues: [...scheduler.queues.all].length,
          'open jobs': scheduler.state.openJobs.size,
        }),
  }
  for (const [what, count] of Object.entries(rest))
    sim.check(count === 0, () => `${name} has ${count} ${what} at rest`)
  for (const { attempts, allocated, record } of scheduler.nodes.values())
    sim.check(
      attempts.size === 0 && allocated.cpus === 0,
      () => `${name} has reservations on ${record.name} at rest`,
    )
}

function behaviourOfStep(step: Step): string {
  return behaviourOf({ argv: [step.derivation.builder, ...step.derivation.args] })
}
