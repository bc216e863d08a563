/**
 * How fast nodes are: what they measured of themselves, refined by how long jobs took there against what
 * was expected. Volatile: told anew with each connection, and refined again.
 */
import type { Estimate } from './estimates.ts'
import { clampSpeed } from './learnt.ts'
import type { NodeEntry } from './model.ts'

/** What one observation weighs of jobs that always take the same. */
const WEIGHT = 0.2
/** How much less one weighs for the spread of such jobs: with the square of it. */
const SPREAD_WEIGHT = 16
/** Standard deviations from the median to the ninth decile. */
const P90_DEVIATIONS = 1.2816
/** The most that one observation changes a speed. */
const STEP_MAX = Math.log(1.2)
/** How far jobs may move a node's speed from what it measured itself. */
const CORRECTION_MAX = 4
/** What a correction keeps at each step: without it the speeds of all nodes could drift off together. */
const RETAINED = 0.98
/** Before so many runs an expectation says nothing of the node. */
const SAMPLES_MIN = 3
/** And from so many on it counts fully. */
const SAMPLES_TRUSTED = 16
/** A correction below this is taken for chance: equal machines are to stay equal. */
const CHANCE = Math.log(1.25)
/** Shorter runs are mostly start-up. */
const DURATION_MS_MIN = 200

interface Known {
  told: number
  correction: number
}

export class NodeSpeeds {
  readonly #known = new WeakMap<NodeEntry, Known>()

  /** The node says how fast it is; one that says nothing counts as the reference. */
  told(node: NodeEntry, speed: number | undefined): void {
    const known = this.#knownOf(node)
    known.told = clampSpeed(speed ?? 1)
    node.speed = speedOf(known)
  }

  /** A run took `wallMs` on the node where `expected` was expected of a machine of speed 1. */
  observed(node: NodeEntry, wallMs: number, expected: Estimate): void {
    if (expected.sampleCount < SAMPLES_MIN || wallMs < DURATION_MS_MIN) return
    const known = this.#knownOf(node)
    // In logarithms: half of all runs are above what is expected, and twice as long weighs like half as long.
    const surprise = Math.log(expected.durationMs / (known.told * known.correction) / wallMs)
    const step = Math.min(STEP_MAX, Math.max(-STEP_MAX, weightOf(expected) * surprise))
    const correction = known.correction ** RETAINED * Math.exp(step)
    known.correction = Math.min(CORRECTION_MAX, Math.max(1 / CORRECTION_MAX, correction))
    node.speed = speedOf(known)
  }

  #knownOf(node: NodeEntry): Known {
    const known = this.#known.get(node) ?? { told: node.speed, correction: 1 }
    this.#known.set(node, known)
    return known
  }
}

function speedOf({ told, correction }: Known): number {
  return clampSpeed(Math.abs(Math.log(correction)) < CHANCE ? told : told * correction)
}

/** Jobs whose durations differ widely, or are hardly known, say little of the machine that ran one of them. */
function weightOf({ durationMs, durationP90Ms, sampleCount }: Estimate): number {
  const spread = Math.log(Math.max(1, durationP90Ms / Math.max(1, durationMs))) / P90_DEVIATIONS
  const trust = Math.min(1, sampleCount / SAMPLES_TRUSTED)
  return (trust * WEIGHT) / (1 + SPREAD_WEIGHT * spread ** 2)
}
