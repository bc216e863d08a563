/**
 * How fast nodes are: what they measured of themselves, refined by how long jobs took there against what
 * was expected. Volatile: told anew with each connection, and refined again.
 */
import type { Estimate } from './estimates.ts'
import { clampSpeed } from './learnt.ts'
import type { NodeEntry } from './model.ts'

/** What one more observation weighs. */
const WEIGHT = 0.2
/** The most that one observation changes a speed. */
const STEP_MAX = 0.2
/** How far jobs may move a node's speed from what it measured itself. */
const CORRECTION_MAX = 4
/** What a correction keeps at each step: without it the speeds of all nodes could drift off together. */
const RETAINED = 0.98
/** Before so many runs an expectation says nothing of the node. */
const SAMPLES_MIN = 3
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
    node.speed = clampSpeed(known.told * known.correction)
  }

  /** A run took `wallMs` on the node where `expected` was expected of a machine of speed 1. */
  observed(node: NodeEntry, wallMs: number, expected: Estimate): void {
    if (expected.sampleCount < SAMPLES_MIN || wallMs < DURATION_MS_MIN) return
    const known = this.#knownOf(node)
    const expectedMs = expected.durationMs / node.speed
    const ratio = expectedMs / wallMs
    const step = Math.min(1 + STEP_MAX, Math.max(1 - STEP_MAX, 1 + WEIGHT * (ratio - 1)))
    known.correction = Math.min(
      CORRECTION_MAX,
      Math.max(1 / CORRECTION_MAX, known.correction ** RETAINED * step),
    )
    node.speed = clampSpeed(known.told * known.correction)
  }

  #knownOf(node: NodeEntry): Known {
    const known = this.#known.get(node) ?? { told: node.speed, correction: 1 }
    this.#known.set(node, known)
    return known
  }
}
