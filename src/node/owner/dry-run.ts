/** What a submit of a graph would do now: what is cached, what would be built and where. */
import { mayEverStart, requirementOf } from '../../scheduler/match.ts'
import type { Step } from '../../scheduler/model.ts'
import type { Scheduler } from '../../scheduler/scheduler.ts'
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

/** Accepts nothing; O(graph × nodes). The graph was checked. */
export async function dryRun(
  scheduler: Scheduler,
  graph: Graph,
  actions: ActionCache,
): Promise<DryRun> {
  const request = makeRequest({ ...NOBODY, graph }, 0)
  const known = new Map<string, Readonly<Record<string, Entry>>>()
  const derivations: DryRun['derivations'] = []
  const steps = topological([...request.steps.values()])
  for (const step of steps) {
    const resolved = resolveDerivation(step.derivation, (name, output) => known.get(name)?.[output])
    const outputs =
      resolved === undefined ? undefined : await cachedOutputs(actions, jobKey(resolved))
    if (outputs !== undefined) known.set(step.derivation.name, outputs)
    const requirement = requirementOf([step])
    let inputBytes = 0
    for (const entry of Object.values(resolved?.inputs ?? {}))
      if (entry.kind !== 'symlink') inputBytes += entry.size
    derivations.push({
      name: step.derivation.name,
      state: outputs !== undefined ? 'cached' : resolved === undefined ? 'unknown' : 'build',
      nodes: [...scheduler.nodes.values()]
        .filter((node) => mayEverStart(requirement, node))
        .map((node) => node.record.name),
      inputBytes,
      run: step.derivation.run,
    })
  }
  return { derivations, criticalPath: criticalPath(steps, known) }
}

/** Names on the longest chain of derivations that are not cached, first to last. */
function criticalPath(ordered: readonly Step[], cached: ReadonlyMap<string, unknown>): string[] {
  const best = new Map<Step, { length: number; before: Step | undefined }>()
  let last: Step | undefined
  for (const step of ordered) {
    let length = cached.has(step.derivation.name) ? 0 : 1
    let before: Step | undefined
    for (const dependency of step.dependencies) {
      const other = best.get(dependency)
      if (other === undefined || other.length === 0) continue
      if (other.length + (cached.has(step.derivation.name) ? 0 : 1) > length) {
        length = other.length + (cached.has(step.derivation.name) ? 0 : 1)
        before = dependency
      }
    }
    best.set(step, { length, before })
    if (length > 0 && (last === undefined || length > (best.get(last)?.length ?? 0))) last = step
  }
  const names: string[] = []
  for (let step = last; step !== undefined; step = best.get(step)?.before)
    names.unshift(step.derivation.name)
  return names
}
