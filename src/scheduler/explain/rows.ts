/**
 * The rows of the matrix of `mesh why`: one node against every requirement of a class, with the observed
 * values. Rows have the form of the API, since those of a subtree come from the node that speaks for it.
 */
import { formatDuration, formatSize } from '../../base/units.ts'
import type { Verdict as VerdictWire, WhyNode } from '../../wire/api.ts'
import { verdictsOf, type Requirement, type Verdict } from '../match.ts'
import type { Job, NodeEntry } from '../model.ts'

/** What is known of a node beyond its own entry. */
export interface RowContext {
  readonly nowMs: number
  /** Why an input of the job has no way to the node. */
  readonly obstacle?: string | undefined
}

/** The row of everything that a node looks like: also what it is busy with, which fails no requirement. */
const STATE = 'state'
/** Text of a cell. */
const BRIEF_MAX = 12

/** The node against the requirement; with the job also what only that job has met there. */
export function rowOf(
  requirement: Requirement,
  node: NodeEntry,
  job: Job | undefined,
  context: RowContext,
): WhyNode {
  const verdicts = verdictsOf(requirement, node, job, context.obstacle).map((verdict) => ({
    ...verdict,
    ...shownAs(verdict, node, context),
    ...amountOf(verdict, node),
  }))
  const failing = verdicts.filter(({ ok, permanent }) => !ok && permanent)
  const cross = crossOf(requirement, node)
  return {
    node: node.record.name,
    peerId: node.peerId,
    state: node.state,
    cpus: { total: node.capacity.cpus, busy: Math.max(0, node.allocated.cpus) },
    verdicts:
      cross === undefined || failing.some((verdict) => !isSystem(verdict))
        ? verdicts
        : verdicts.map((verdict) => (isSystem(verdict) ? { ...verdict, cross } : verdict)),
  }
}

const isSystem = ({ requirement }: { readonly requirement: string }): boolean =>
  requirement === 'system'

/** The name of the row and the text of the cell. */
function shownAs(
  verdict: Verdict,
  node: NodeEntry,
  context: RowContext,
): Pick<VerdictWire, 'req' | 'brief'> & { have?: string } {
  const { requirement, want, have, ok, permanent } = verdict
  if (requirement === STATE)
    return { req: STATE, have: stateText(verdict, node), brief: stateBrief(verdict, node, context) }
  if (requirement.startsWith('feature ') || requirement.startsWith('tool '))
    return { req: requirement, ...(ok || permanent ? {} : { brief: have.slice(0, BRIEF_MAX) }) }
  const req = `${requirement} ${want}`
  switch (requirement) {
    case 'system':
      return { req, brief: systemBrief(want, have) }
    case 'cpus':
    case 'memory':
    case 'disk':
      return { req, brief: amountBrief(verdict, node) }
    case 'inputs':
      return { req, brief: 'cut off' }
    case 'not failed here':
      return { req: requirement, brief: 'failed' }
    case 'not refused here':
      return { req: requirement, brief: 'refused' }
    case 'userland':
      return { req: 'userland of request', brief: have === 'not probed yet' ? 'unprobed' : 'other' }
    case 'isolation':
      return { req, brief: have }
    default:
      return { req, brief: have.length <= BRIEF_MAX ? have : '' }
  }
}

/** Of what the node has, the part that differs from what is wanted: `x86_64` of another architecture, `darwin` of another platform. */
function systemBrief(want: string, have: string): string {
  const [first = '', ...others] = have.split(', ')
  const [arch, platform] = first.split('-')
  const [wantedArch, wantedPlatform] = (want.split(' or ')[0] ?? '').split('-')
  const differing =
    platform === undefined || platform === wantedPlatform
      ? arch
      : arch === wantedArch
        ? platform
        : first
  return `${differing ?? first}${others.length > 0 ? `+${others.length}` : ''}`
}

/** For good: what there is in all; else what is free of it. */
function amountBrief({ requirement, permanent }: Verdict, node: NodeEntry): string {
  const { capacity, allocated } = node
  if (requirement === 'cpus')
    return String(permanent ? capacity.cpus : Math.max(0, capacity.cpus - allocated.cpus))
  const what = requirement === 'memory' ? 'memoryBytes' : 'diskBytes'
  const bytes = permanent ? capacity[what] : Math.max(0, capacity[what] - allocated[what])
  return formatSize(bytes)
}

function amountOf({ requirement }: Verdict, { capacity }: NodeEntry): { total?: number } {
  switch (requirement) {
    case 'cpus':
      return { total: capacity.cpus }
    case 'memory':
      return { total: capacity.memoryBytes }
    case 'disk':
      return { total: capacity.diskBytes }
    default:
      return {}
  }
}

/** With the reason, which the node or the owner has put into its note. */
function stateText({ ok, have }: Verdict, { state, note }: NodeEntry): string {
  return ok || note === '' || have !== state ? have : `${state}: ${note}`
}

/** `ready`, `busy 12/16`, `lost 4m`, `draining`, `off`; what keeps it from work comes first. */
function stateBrief(verdict: Verdict, node: NodeEntry, { nowMs }: RowContext): string {
  switch (node.state) {
    case 'ready':
      if (!verdict.ok) return verdict.have
      return node.allocated.cpus > 0 && node.capacity.cpus > 0
        ? `busy ${node.allocated.cpus}/${node.capacity.cpus}`
        : 'ready'
    case 'lost':
      return `lost ${shortDuration(nowMs - node.disconnectedAtMs)}`
    case 'sleeping':
      return 'off'
    case 'waking':
      return 'starting'
    case 'draining':
    case 'drained':
    case 'quarantined':
    case 'full':
    case 'broken':
      return node.state
  }
}

/** The largest unit alone: `4m`. */
function shortDuration(ms: number): string {
  return /^\d+(?:\.\d)?[a-z]+/.exec(formatDuration(Math.max(0, ms)))?.[0] ?? '0s'
}

/** The system of the node, where only a block "when" for it is missing: another architecture of the same platform. */
function crossOf(requirement: Requirement, node: NodeEntry): string | undefined {
  const platforms = new Set(requirement.hosts.map((host) => host.split('-')[1]))
  for (const { system, isolation } of node.environments) {
    if (requirement.hosts.includes(system) || requirement.hosts.includes('any')) return undefined
    if (requirement.sealed && isolation === 'host') continue
    if (platforms.has(system.split('-')[1])) return system
  }
  return undefined
}
