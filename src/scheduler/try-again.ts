/** Which steps of a request run again when a person says so: what did not come to a good end, and what hangs on it. */
import { BUILTIN_FETCH } from '../wire/derivation.ts'
import type { Request, Step } from './model.ts'

/**
 * Those of `derivation`, of what it needs and of what needs it; all of them where none is named. With
 * `rebind` all that was, or is, built with a userland as well: half of it cannot be built with another.
 */
export function stepsToTryAgain(
  request: Request,
  derivation: string | undefined,
  rebind: boolean,
): Step[] {
  if (rebind) return [...request.steps.values()].filter(isOfUserland)
  const named = derivation === undefined ? undefined : request.steps.get(derivation)
  const chosen = new Set<Step>()
  const open: Step[] = named === undefined ? [...request.steps.values()] : [named]
  for (let step = open.pop(); step !== undefined; step = open.pop()) {
    if (chosen.has(step) || !hasEndedBadly(step)) continue
    chosen.add(step)
    open.push(...step.dependencies)
  }
  const dependents = [...chosen].flatMap((step) => step.dependents)
  for (let step = dependents.pop(); step !== undefined; step = dependents.pop()) {
    // One that lacks something else as well is left as it is.
    const isHopeful = step.dependencies.every(
      (dependency) => chosen.has(dependency) || !hasEndedBadly(dependency),
    )
    if (chosen.has(step) || !hasEndedBadly(step) || !isHopeful) continue
    chosen.add(step)
    dependents.push(...step.dependents)
  }
  // In the order of the graph, so that replay and live agree.
  return [...request.steps.values()].filter((step) => chosen.has(step))
}

function hasEndedBadly({ phase }: Step): boolean {
  return phase === 'failed' || phase === 'cancelled' || phase === 'skipped'
}

function isOfUserland(step: Step): boolean {
  if (hasEndedBadly(step)) return true
  return step.derivation.builder !== BUILTIN_FETCH && step.phase !== 'blocked'
}
