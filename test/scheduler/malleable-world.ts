/** A world whose jobs are work: with twice the processors they take half as long. Used by tests and benches. */
import type { Derivation } from '../../src/wire/derivation.ts'
import { World, type WorldNode } from './world.ts'

/** How far the time goes in one step: nothing ends more exactly than that. */
const STEP_MS = 1_000

export class MalleableWorld {
  readonly world = new World()
  /** Processor ms by derivation. */
  readonly #work = new Map<string, number>()
  /** What is done of it, by attempt, and how long that took. */
  readonly #done = new Map<string, { readonly cpuMs: number; readonly forMs: number }>()
  /** When derivations ended. */
  readonly endedAtMs = new Map<string, number>()
  /** The most processors of one machine that were in use at once. */
  busyMax = 0

  /** As if it had run before with so many processors. */
  teach(derivation: Derivation, cpuMs: number, cpus: number): void {
    for (let count = 0; count < 3; count += 1)
      this.world.scheduler.state.estimates.learn([derivation], {
        kind: 'done',
        durationMs: cpuMs / cpus,
        memoryBytes: 0,
        diskBytes: 0,
        cpuShare: cpus,
      })
  }

  /** What the derivation takes in all. */
  setWork({ name }: Derivation, cpuMs: number): void {
    this.#work.set(name, cpuMs)
  }

  /** Until all of these have ended; false when they do not in time. */
  run(names: readonly string[], withinMs: number): boolean {
    const endMs = this.world.nowMs + withinMs
    const isDone = (): boolean => names.every((name) => this.endedAtMs.has(name))
    while (!isDone() && this.world.nowMs < endMs) this.step()
    return isDone()
  }

  step(): void {
    this.world.pass(STEP_MS)
    for (const node of this.world.nodes) this.#advance(node)
  }

  #advance(node: WorldNode): void {
    node.take()
    // As they are now: when one ends the others may get its processors at once.
    const runs = [...node.running].map(
      ([attempt, { name }]) => [attempt, name, node.allotments.get(attempt) ?? 1] as const,
    )
    this.busyMax = Math.max(
      this.busyMax,
      runs.reduce((sum, [, , cpus]) => sum + cpus, 0),
    )
    for (const [attempt, name, cpus] of runs) {
      const before = this.#done.get(attempt)
      const done = {
        cpuMs: (before?.cpuMs ?? 0) + cpus * STEP_MS,
        forMs: (before?.forMs ?? 0) + STEP_MS,
      }
      this.#done.set(attempt, done)
      if (done.cpuMs < (this.#work.get(name) ?? STEP_MS)) continue
      const usage = { wallMs: done.forMs, cpuMs: done.cpuMs, maxRssBytes: 1 }
      node.build(attempt, undefined, { usage })
      this.endedAtMs.set(name, this.world.nowMs)
    }
  }
}
