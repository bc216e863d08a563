/** What people see of the state: jobs, requests, nodes and reasons, in the form of the API. Pure. */
import { ERRORS, EXIT, isErrorCode } from '../base/errors.ts'
import type {
  AttemptView,
  JobState,
  JobView,
  NodeState,
  NodeView,
  RequestView,
  Why,
} from '../wire/api.ts'
import type { PolicyView, PolicyWire } from '../wire/policy.ts'
import type { Entry } from '../wire/tree.ts'
import { reasonOf } from './explain.ts'
import {
  holdOfStep,
  isLive,
  priorityOf,
  runnerOf,
  type Attempt,
  type Hold,
  type NodeEntry,
  type Request,
  type Step,
} from './model.ts'
import { dissenterOf, votesWantedBy } from './votes.ts'
import type { Moment } from './events.ts'
import { cpusOf } from './subtree-offer.ts'
import type { Scheduler } from './scheduler.ts'
import { iso, slotsMark } from './slots-mark.ts'
import type { StandingView } from './standing-view.ts'

function attemptView(attempt: Attempt): AttemptView {
  const [arch = '', platform = ''] = attempt.system.split('-')
  return {
    id: attempt.id,
    n: attempt.n,
    node: runnerOf(attempt).name,
    peerId: runnerOf(attempt).peerId,
    host: runnerOf(attempt).name,
    arch,
    platform,
    environment: environmentText(attempt),
    ...(attempt.machine === undefined ? {} : { machine: attempt.machine }),
    action: attempt.action,
    state: attempt.state,
    startedAt: iso(attempt.startedAtWall),
    endedAt: attempt.endedAtWall === undefined ? null : iso(attempt.endedAtWall),
    phases: attempt.phases,
    cpus: attempt.allotted,
    usage: attempt.usage,
    ...(attempt.measured === undefined ? {} : { measured: attempt.measured }),
    error: attempt.error,
    exitCode: attempt.exitCode,
  }
}

function environmentText({ isolation, label, machine }: Attempt): string {
  const what = isolation === label ? isolation : `${isolation} ${label}`
  return `${what}${machine === undefined ? '' : `, emulated on ${machine}`}`
}

export function jobState(step: Step): JobState {
  switch (step.phase) {
    case 'done':
    case 'failed':
    case 'cancelled':
      return step.phase
    case 'skipped':
      return 'cancelled'
    case 'blocked':
      return 'waiting'
    case 'open': {
      const live = step.job?.attempts.find(isLive)
      if (live === undefined) return 'waiting'
      return live.state === 'leased' ? 'leased' : 'running'
    }
  }
}

function heldView(hold: Hold | undefined): Pick<JobView, 'held'> {
  return hold === undefined
    ? {}
    : { held: { by: hold.by, reason: hold.reason, at: iso(hold.atWall) } }
}

/** All attempts that were made for the step, oldest first. */
export function attemptsOf(step: Step): Attempt[] {
  const jobs = step.job === undefined ? step.earlier : [...step.earlier, step.job]
  return jobs.flatMap((job) => job.attempts)
}

/** Who has built it, of a step that several nodes are to build. */
function verifyView(step: Step): Pick<JobView, 'verify'> {
  const wanted = votesWantedBy(step)
  if (wanted <= 1 || step.job === undefined) return {}
  const builders = step.job.votes.map(({ node }) => node.name)
  const isEqual = dissenterOf(step.job.votes) === undefined
  return { verify: { wanted, builders, isEqual } }
}

export function jobView(scheduler: Scheduler, step: Step, moment: Moment): JobView {
  const why = reasonOf(scheduler, step, moment.nowMs)
  return {
    id: step.id,
    request: step.request.wire.id,
    name: step.derivation.name,
    key: step.key ?? null,
    state: jobState(step),
    cached: step.cached,
    ...(why === undefined ? {} : { why }),
    attempts: attemptsOf(step).map((attempt, at) =>
      Object.assign(attemptView(attempt), { n: at + 1 }),
    ),
    rewinds: step.rewinds,
    ...verifyView(step),
    priority: priorityOf(step),
    ...heldView(holdOfStep(step)),
    ...(step.slots === undefined ? {} : { slots: slotsMark(step.slots) }),
  }
}

/** `ownerName` is this node; the times are by its clock. */
export function requestView(
  scheduler: Scheduler,
  request: Request,
  ownerName: string,
  moment: Moment,
): RequestView {
  const replicas = scheduler.replicasOf(request)
  const counts = {
    total: request.steps.size,
    built: 0,
    cached: 0,
    failed: 0,
    cancelled: 0,
    running: 0,
    waiting: 0,
  }
  let serialMs = 0
  let ranLocally = 0
  const failures = []
  const outputs: Record<string, Record<string, Entry>> = {}
  for (const step of request.steps.values()) {
    switch (jobState(step)) {
      case 'done': {
        counts[step.cached ? 'cached' : 'built'] += 1
        const attempt = step.job?.attempts.findLast((candidate) => candidate.state === 'done')
        if (step.cached || attempt === undefined) break
        serialMs += attempt.usage?.wallMs ?? 0
        if (runnerOf(attempt).peerId === request.wire.entry.peerId) ranLocally += 1
        break
      }
      case 'failed':
        counts.failed += 1
        break
      case 'cancelled':
        counts.cancelled += 1
        break
      case 'leased':
      case 'running':
        counts.running += 1
        break
      case 'waiting':
        counts.waiting += 1
        break
    }
    if (step.failure !== undefined) failures.push(step.failure)
  }
  for (const name of request.wire.graph.wanted) {
    const step = request.steps.get(name)
    if (step?.phase === 'done' && step.outputs !== undefined) outputs[name] = step.outputs
  }
  const isActive = request.state === 'active'
  const rootBytes = isActive
    ? Math.max(0, moment.ownBlobBytes - request.rootBytesBefore)
    : request.rootBytes
  return {
    id: request.wire.id,
    name: request.wire.graph.name,
    user: request.wire.user,
    state: isActive
      ? counts.running + counts.built > 0
        ? 'running'
        : 'waiting'
      : request.state === 'active'
        ? 'running'
        : request.state,
    accepted: 'owned',
    owner: ownerName,
    detachable: request.detachable,
    submittedAt: iso(request.wire.submittedAtWall),
    endedAt: request.endedAtWall === undefined || isActive ? null : iso(request.endedAtWall),
    counts,
    outputs,
    bytes: { ...request.bytes, root: rootBytes },
    wallMs: Math.max(
      0,
      (isActive ? moment.wallMs : (request.endedAtWall ?? moment.wallMs)) -
        request.wire.submittedAtWall,
    ),
    serialMs,
    ranLocally,
    failures,
    exit: exitOf(request),
    replicas: ['failed', 'cancelled'].includes(request.state) ? null : (replicas ?? null),
    notices: [...request.notices],
    priority: request.boost ?? request.wire.priority,
    ...heldView(request.hold),
  }
}

/** The exit code of a finished request: of the failure that says most about the user's own code. */
function exitOf(request: Request): number {
  if (request.state === 'cancelled') return EXIT.cancelled
  if (request.state !== 'failed') return EXIT.ok
  const exits: number[] = []
  for (const step of request.steps.values()) {
    const code = step.failure?.code
    if (code !== undefined) exits.push(isErrorCode(code) ? ERRORS[code].exit : EXIT.temporary)
  }
  return Math.min(...exits, 255)
}

export function policyView({ untilWall, ...policy }: PolicyWire): PolicyView {
  return { ...policy, ...(untilWall === undefined ? {} : { until: iso(untilWall) }) }
}

export function nodeView(
  node: NodeEntry,
  parentName: string,
  standing: StandingView = {},
): NodeView {
  return {
    name: node.record.name,
    peerId: node.peerId,
    state: node.state,
    roles: [...node.record.roles],
    parent: parentName,
    environments: [...node.environments],
    capacity: node.capacity,
    allocated: { ...node.allocated },
    versions: { mesh: node.version.mesh, protocols: [...node.version.protocols] },
    http: node.record.http,
    lastSeenAt: iso(node.lastSeenWall),
    note: node.note,
    speed: Math.round(node.speed * 1000) / 1000,
    ...(node.policy === undefined ? {} : { policy: policyView(node.policy) }),
    ...(node.facts === undefined ? {} : { facts: [...node.facts] }),
    ...standing,
  }
}

/** What this node knows by itself; `onlyNode` is a name or the beginning of a peer id. */
export function whyView(
  scheduler: Scheduler,
  step: Step,
  moment: Moment,
  onlyNode: string | undefined,
): Why {
  return scheduler.explainer.why(step, jobState(step), moment, onlyNode)
}

/** Busy processors, and jobs by state. */
export function totals(scheduler: Scheduler): {
  nodes: Record<NodeState, number>
  cpus: { total: number; busy: number }
  jobs: { waiting: number; running: number }
  activeRequests: number
} {
  const nodes = {
    ready: 0,
    draining: 0,
    drained: 0,
    quarantined: 0,
    full: 0,
    lost: 0,
    sleeping: 0,
    waking: 0,
    broken: 0,
  }
  const cpus = { total: 0, busy: 0 }
  for (const node of scheduler.nodes.values()) {
    nodes[node.state] += 1
    if (!node.connected) continue
    const { total, busy } = cpusOf(node)
    cpus.total += total
    cpus.busy += busy
  }
  const jobs = { waiting: 0, running: 0 }
  for (const open of scheduler.state.openJobs.values())
    for (const job of open) jobs[job.attempts.some(isLive) ? 'running' : 'waiting'] += 1
  let activeRequests = 0
  for (const request of scheduler.state.requests.values())
    if (request.state === 'active') activeRequests += 1
  return { nodes, cpus, jobs, activeRequests }
}
