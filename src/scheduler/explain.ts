/** Why a step waits: one code and sentence from the state, and the whole matrix when asked. */
import type { Job, WaitReason, NodeEntry, Step } from './model.ts'
import { isLive } from './model.ts'
import { formatDuration, formatSize } from '../base/units.ts'
import {
  describeMisfit,
  environmentFor,
  mayEverStart,
  requirementOf,
  verdictsOf,
  type Requirement,
  type Verdict,
} from './match.ts'
import type { Obstacle } from './reach.ts'
import type { Scheduler } from './scheduler.ts'

export interface Explanation {
  readonly reason: WaitReason | undefined
  readonly summary: string
  readonly waitedMs: number
  readonly nodes: readonly { readonly node: NodeEntry; readonly verdicts: readonly Verdict[] }[]
  readonly fixes: readonly string[]
}

/** The reason of a step that is not done and does not run; undefined for all others. */
export function reasonOf(scheduler: Scheduler, step: Step, nowMs: number): WaitReason | undefined {
  if (step.phase === 'blocked') return inputsReason(step)
  const job = step.job
  if (step.phase !== 'open' || job === undefined) return undefined
  switch (job.phase) {
    case 'closed':
    case 'leased':
      return undefined
    case 'lookup':
      return { class: 'lookup', text: 'looking for a stored result' }
    case 'waiting':
      break
  }
  if (job.notBeforeMs > nowMs) {
    const last = job.attempts.findLast((attempt) => attempt.error !== null)
    return {
      class: 'retry',
      text: `tried again in ${Math.ceil((job.notBeforeMs - nowMs) / 1000)} s: ${last?.error ?? 'its node was lost'}`,
    }
  }
  const requirement = requirementOf(job.waiters)
  const nodes = [...scheduler.nodes.values()]
  const possible = nodes.filter((node) => mayEverStart(requirement, node))
  if (possible.length === 0) {
    if (nowMs < scheduler.recoveringUntilMs)
      return {
        class: 'recovery',
        text: 'the mesh has just restarted; its nodes are still coming back',
      }
    return unsatisfiableReason(requirement, nodes)
  }
  const present = possible.filter((node) => node.connected && node.state === 'ready')
  if (present.length === 0) {
    const names = possible.map(
      ({ record, state, note }) => `${record.name} (${state === 'full' ? `full: ${note}` : state})`,
    )
    return {
      class: 'away',
      text: `waiting, not failed: no matching node is there: ${listSome(names)}`,
    }
  }
  const obstacles = present.map((node) => obstacleOf(scheduler, requirement, job, node))
  const [obstacle] = obstacles
  if (obstacle !== undefined && obstacles.every((other) => other !== undefined))
    return {
      class: obstacle.kind,
      text: obstacleText(scheduler, obstacle, present, nowMs),
    }
  const queue = scheduler.queues.of(job)
  const position =
    queue === undefined ? 0 : queue.items.length - queue.items.findIndex((item) => item.job === job)
  const count = queue?.items.length ?? 0
  return {
    class: 'busy',
    text: `${present.length === 1 ? `the 1 matching node is` : `all ${present.length} matching nodes are`} busy: position ${position} of ${count} in the queue`,
  }
}

/** What keeps the inputs of the job from the node. */
function obstacleOf(
  scheduler: Scheduler,
  requirement: Requirement,
  job: Job,
  node: NodeEntry,
): Obstacle | undefined {
  const system = environmentFor(requirement, node)?.system
  return system === undefined ? undefined : scheduler.obstacle(job, node, system)
}

function holdersText(scheduler: Scheduler, { holders }: Obstacle, nowMs: number): string {
  return listSome(
    holders.map((peerId) => {
      const node = scheduler.nodes.get(peerId)
      if (node === undefined) return 'a node that has not been seen since the mesh was started'
      const { name } = node.record
      return node.connected
        ? name
        : `${name}, offline ${formatDuration(Math.max(0, nowMs - node.disconnectedAtMs))}`
    }),
  )
}

function obstacleText(
  scheduler: Scheduler,
  obstacle: Obstacle,
  nodes: readonly NodeEntry[],
  nowMs: number,
): string {
  const { kind, input, producer } = obstacle
  const where = holdersText(scheduler, obstacle, nowMs)
  const origin =
    producer === undefined
      ? ''
      : `; it is the output of ${producer.derivation.name} (${producer.id})`
  return kind === 'missing'
    ? `nobody who is there has input ${input}: last seen on ${where}${origin}`
    : `input ${input} is at ${where}, and no way leads from there to ${listSome(nodes.map((node) => node.record.name))}${origin}`
}

function inputsReason(step: Step): WaitReason {
  const missing = step.dependencies.filter((dependency) => dependency.phase !== 'done')
  const named = missing.map((dependency) => {
    const attempt = dependency.job?.attempts.find(isLive)
    const where =
      attempt === undefined
        ? dependency.phase === 'open'
          ? 'waiting'
          : 'not started'
        : `running on ${attempt.node.name}`
    return `${dependency.derivation.name} (${dependency.id}, ${where})`
  })
  return {
    class: 'inputs',
    text: `waiting for ${missing.length === 1 ? 'input' : `${missing.length} inputs`} ${listSome(named)}`,
  }
}

function unsatisfiableReason(requirement: Requirement, nodes: readonly NodeEntry[]): WaitReason {
  const { text, lacks } = describeMisfit(requirement, nodes)
  const isRebind = lacks.length > 0 && lacks.every((name) => name === 'userland')
  return { class: isRebind ? 'rebind' : 'unsatisfiable', text }
}

/** Every node against every requirement of the step, and what its user can do. */
export function explain(scheduler: Scheduler, step: Step, nowMs: number): Explanation {
  const reason = reasonOf(scheduler, step, nowMs)
  const requirement = requirementOf(
    step.job !== undefined && step.job.waiters.size > 0 ? step.job.waiters : [step],
  )
  const nodes = [...scheduler.nodes.values()]
    .filter((node) => node.environments.length > 0 || node.record.roles.includes('worker'))
    .map((node) => {
      const obstacle =
        step.job?.phase === 'waiting'
          ? obstacleOf(scheduler, requirement, step.job, node)
          : undefined
      const text =
        obstacle === undefined
          ? undefined
          : `${obstacle.input} is at ${holdersText(scheduler, obstacle, nowMs)}`
      return { node, verdicts: verdictsOf(requirement, node, step.job, text) }
    })
  const fixes: string[] = []
  if (reason?.class === 'unsatisfiable') fixes.push(...unsatisfiableFixes(step, requirement, nodes))
  if (reason?.class === 'rebind')
    fixes.push(
      'bring back a node with the userland that the request began with, or cancel and submit it again',
    )
  if (reason?.class === 'away')
    fixes.push(
      nodes.some(({ node }) => node.state === 'full')
        ? 'make room on the nodes that are full, or start one of those that are away'
        : 'start one of the nodes that are away',
    )
  if (reason?.class === 'unreachable')
    fixes.push(
      'start a node with role store that both can dial:  mesh-node --role store --listen MULTIADDR --parent MULTIADDR',
    )
  if (reason?.class === 'missing')
    fixes.push('start the node that was seen with it, or submit again where the files are')
  return {
    reason,
    summary: summaryOf(scheduler, step, reason),
    waitedMs: step.job === undefined ? 0 : Math.max(0, nowMs - step.job.waitingSinceMs),
    nodes,
    fixes,
  }
}

function unsatisfiableFixes(
  step: Step,
  requirement: Requirement,
  nodes: readonly { readonly node: NodeEntry; readonly verdicts: readonly Verdict[] }[],
): string[] {
  const fixes: string[] = []
  const where = step.derivation.where === undefined ? '' : `  (${step.derivation.where})`
  const fails = (name: string): boolean =>
    nodes.length > 0 &&
    nodes.every(({ verdicts }) =>
      verdicts.some((verdict) => verdict.requirement === name && !verdict.ok && verdict.permanent),
    )
  const most = (amount: (node: NodeEntry) => number): number =>
    Math.max(0, ...nodes.map(({ node }) => amount(node)))
  if (fails('memory'))
    fixes.push(
      `lower needs.memory to ${formatSize(most((node) => node.capacity.memoryBytes))} or less${where}`,
    )
  if (fails('cpus'))
    fixes.push(`lower needs.cpus to ${most((node) => node.capacity.cpus)} or less${where}`)
  if (fails('disk'))
    fixes.push(
      `lower needs.disk to ${formatSize(most((node) => node.capacity.diskBytes))} or less${where}`,
    )
  if (fails('isolation')) fixes.push(`set sealed = false, if a build without walls will do${where}`)
  if (fails('system'))
    fixes.push(
      `add a machine of ${requirement.hosts.join(' or ')}, or a "when" block for a machine that is there${where}`,
    )
  fixes.push('add a machine:  mesh-node --role worker --parent MULTIADDR')
  return fixes
}

function summaryOf(scheduler: Scheduler, step: Step, reason: WaitReason | undefined): string {
  const { name } = step.derivation
  if (reason !== undefined) return `${name} waits: ${reason.text}`
  switch (step.phase) {
    case 'done': {
      const places = scheduler.placesOf(step)
      const parts = [
        `${name} does not wait: it is done${step.cached ? ', from a stored result' : ''}`,
        ...(places === undefined ? [] : [places]),
        ...(step.hasDiverged
          ? [
              'its outputs were lost, and building it again gave others: what was built from the first ones keeps them',
            ]
          : []),
      ]
      return parts.join('; ')
    }
    case 'failed':
      return `${name} does not wait: it failed: ${step.failure?.message ?? ''}`
    case 'cancelled':
      return `${name} does not wait: it was cancelled`
    case 'skipped':
      return `${name} does not wait: something that it needs has failed`
    case 'blocked':
    case 'open': {
      const attempt = step.job?.attempts.find(isLive)
      return attempt === undefined
        ? `${name} is about to start`
        : `${name} does not wait: it is ${attempt.state} on ${attempt.node.name}`
    }
  }
}

function listSome(names: readonly string[]): string {
  return names.length <= 3
    ? names.join(', ')
    : `${names.slice(0, 3).join(', ')} and ${names.length - 3} more`
}
