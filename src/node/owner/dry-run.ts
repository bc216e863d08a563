/** What a submit of a graph would do now: what is cached, what would be built and where. */
import { requirementOf } from '../../scheduler/match.ts'
import type { Step } from '../../scheduler/model.ts'
import type { Scheduler } from '../../scheduler/scheduler.ts'
import { cpusOf } from '../../scheduler/subtree-offer.ts'
import { makeRequest, topological } from '../../scheduler/make-request.ts'
import type { ActionCache } from '../../store/action-cache.ts'
import { PRIORITY_DEFAULT, type DryRun } from '../../wire/api.ts'
import { jobKey, resolveDerivation, type Graph } from '../../wire/derivation.ts'
import type { Digest } from '../../wire/digest.ts'
import type { Entry } from '../../wire/tree.ts'

/** A request needs a submitter, also one that is never accepted. */
const NOBODY = {
  id: 'r-dryrun',
  user: '',
  entry: { peerId: '', name: '' },
  priority: PRIORITY_DEFAULT,
  keepGoing: false,
  noWait: false,
  submittedAtWall: 0,
}

async function cachedOutputs(
  actions: ActionCache,
  key: Digest,
): Promise<Readonly<Record<string, Entry>> | undefined> {
  for (const action of await actions.actionsOf(key)) {
    const cached = await actions.find(action)
    if (cached?.result.jobKey === key) return cached.result.outputs
  }
  return undefined
}

/** Names of nodes that one derivation lists; the others are counted. */
const NODES_NAMED_MAX = 20

/** Accepts nothing; O(graph + requirement classes × nodes). The graph was checked. */
export async function dryRun(
  scheduler: Scheduler,
  graph: Graph,
  actions: ActionCache,
): Promise<DryRun> {
  const request = makeRequest({ ...NOBODY, graph }, 0)
  const known = new Map<string, Readonly<Record<string, Entry>>>()
  const derivations: DryRun['derivations'] = []
  const unsatisfiable: string[] = []
  let fetchCount = 0
  const steps = topological([...request.steps.values()])
  for (const step of steps) {
    const { derivation } = step
    const resolved = resolveDerivation(derivation, (name, output) => known.get(name)?.[output])
    const outputs =
      resolved === undefined ? undefined : await cachedOutputs(actions, jobKey(resolved))
    if (outputs !== undefined) known.set(derivation.name, outputs)
    let inputBytes = 0
    const entries = [...Object.values(resolved?.inputs ?? {}), ...(resolved?.image ?? [])]
    for (const entry of entries) if (entry.kind !== 'symlink') inputBytes += entry.size
    const requirement = requirementOf([step])
    const { possible, misfit } = scheduler.explainer.viewOf(requirement)
    const isHopeless = possible.length === 0 && outputs === undefined
    if (isHopeless) unsatisfiable.push(derivation.name)
    const reason = isHopeless ? misfit?.text : undefined
    if (outputs === undefined && derivation.fetch !== undefined) fetchCount += 1
    derivations.push({
      name: derivation.name,
      state: outputs !== undefined ? 'cached' : resolved === undefined ? 'unknown' : 'build',
      nodes: possible.slice(0, NODES_NAMED_MAX).map((node) => node.record.name),
      nodeCount: possible.length,
      inputBytes,
      run: derivation.run,
      estimateMs: learntMs(scheduler, step) ?? null,
      ...(reason === undefined ? {} : { reason }),
    })
  }
  const path = criticalPath(scheduler, steps, known)
  return {
    derivations,
    ...path,
    toFetch: { count: fetchCount, bytes: fetchCount === 0 ? 0 : null },
    unsatisfiable,
    estimateMs: wholeMs(scheduler, steps, known, path.criticalPathMs),
  }
}

/** What it took before, on a machine of speed 1; undefined while nothing was learnt. */
function learntMs({ state }: Scheduler, step: Step): number | undefined {
  const { durationMs, sampleCount } = state.estimates.of(step.derivation)
  return sampleCount === 0 ? undefined : durationMs
}

/** Names on the chain of derivations that takes longest of those that are not cached, first to last. */
function criticalPath(
  scheduler: Scheduler,
  ordered: readonly Step[],
  cached: ReadonlyMap<string, unknown>,
): { criticalPath: string[]; criticalPathMs: number | null } {
  interface Way {
    readonly ms: number
    readonly isLearnt: boolean
    readonly before: Step | undefined
  }
  const ways = new Map<Step, Way>()
  let last: Step | undefined
  for (const step of ordered) {
    let before: Step | undefined
    let way = { ms: 0, isLearnt: true }
    for (const dependency of step.dependencies) {
      const other = ways.get(dependency)
      if (other === undefined || other.ms <= way.ms) continue
      way = other
      before = dependency
    }
    const isCached = cached.has(step.derivation.name)
    const { durationMs, sampleCount } = scheduler.state.estimates.of(step.derivation)
    const ms = way.ms + (isCached ? 0 : durationMs)
    ways.set(step, { ms, before, isLearnt: way.isLearnt && (isCached || sampleCount > 0) })
    if (ms > (last === undefined ? 0 : (ways.get(last)?.ms ?? 0))) last = step
  }
  const names: string[] = []
  for (let step = last; step !== undefined; step = ways.get(step)?.before)
    if (!cached.has(step.derivation.name)) names.unshift(step.derivation.name)
  const way = last === undefined ? undefined : ways.get(last)
  return {
    criticalPath: names,
    criticalPathMs: way === undefined ? 0 : way.isLearnt ? Math.round(way.ms) : null,
  }
}

/** Until all is built by the nodes that are there, if they had nothing else to do; null where a duration is not known. */
function wholeMs(
  scheduler: Scheduler,
  steps: readonly Step[],
  cached: ReadonlyMap<string, unknown>,
  criticalPathMs: number | null,
): number | null {
  if (criticalPathMs === null) return null
  let workMs = 0
  for (const step of steps) {
    if (cached.has(step.derivation.name)) continue
    const ms = learntMs(scheduler, step)
    if (ms === undefined) return null
    workMs += ms * step.derivation.needs.cpus.min
  }
  let cpus = 0
  for (const node of scheduler.nodes.values())
    if (node.connected && node.state === 'ready') cpus += cpusOf(node).total * node.speed
  return Math.round(Math.max(criticalPathMs, workMs / Math.max(1, cpus)))
}
