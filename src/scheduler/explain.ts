/** Why a step waits, as a function of the scheduler's state; the parts are in `explain/`. */
import type { Step, WaitReason } from './model.ts'
import type { Scheduler } from './scheduler.ts'

/** The reason of a step that is not done and does not run; undefined for all others. */
export function reasonOf(scheduler: Scheduler, step: Step, nowMs: number): WaitReason | undefined {
  return scheduler.explainer.reasonOf(step, nowMs)
}
