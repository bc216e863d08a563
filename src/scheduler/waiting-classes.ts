/**
 * The requirement classes that wait here and above, as they are named to nodes that answer for a subtree.
 *
 * A class stays named for a while after its last job began, so that the next one need not wait for the
 * subtrees to say anew what they could take of it. Each list has a version: a node is told a list once.
 */
import { CLASSES_MAX, type RequirementWire } from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import type { Requirement } from './match.ts'
import { classOf, requirementToWire } from './requirement-wire.ts'

/** How often it is looked whether a class does not wait any more. */
const LOOK_MS = 5_000
/** How long a class is named after nothing of it waits any more. */
const NAMED_MS = 60_000

export interface NamedClass {
  readonly key: string
  readonly requirement: RequirementWire
}

export class WaitingClasses {
  readonly #core: Core
  /** The one that waited longest ago first. */
  readonly #seen = new Map<string, { readonly requirement: Requirement; lastMs: number }>()
  #lookedAtMs = Number.NEGATIVE_INFINITY
  #keys = ''
  #list: readonly NamedClass[] = []
  version = 0

  constructor(core: Core) {
    this.#core = core
  }

  /** Something came to wait that did not before. */
  changed(): void {
    this.#lookedAtMs = Number.NEGATIVE_INFINITY
  }

  /** Those that wait above first. */
  list(): readonly NamedClass[] {
    const { nowMs } = this.#core.moment
    if (nowMs - this.#lookedAtMs < LOOK_MS) return this.#list
    this.#lookedAtMs = nowMs
    for (const { requirement } of this.#core.queues.all) this.#see(requirement, nowMs)
    for (const [key, { lastMs }] of this.#seen)
      if (nowMs - lastMs > NAMED_MS || this.#seen.size > CLASSES_MAX) this.#seen.delete(key)
    const classes = new Map(this.#core.relays.classesAbove)
    for (const [key, { requirement }] of this.#seen) classes.set(key, requirement)
    const named = [...classes].slice(0, CLASSES_MAX)
    const keys = named
      .map(([key]) => key)
      .toSorted()
      .join()
    if (keys === this.#keys) return this.#list
    this.#keys = keys
    this.version += 1
    this.#list = named.map(([key, requirement]) => ({
      key,
      requirement: requirementToWire(requirement),
    }))
    return this.#list
  }

  /** Has subtrees told of what came to wait. */
  announce(): void {
    if (this.#lookedAtMs !== Number.NEGATIVE_INFINITY) return
    const before = this.version
    this.list()
    if (this.version === before) return
    for (const { peerId, connected, bundle } of this.#core.nodes.values())
      if (connected && bundle !== undefined) this.#core.effects.push({ type: 'desired', peerId })
  }

  #see(requirement: Requirement, nowMs: number): void {
    const key = classOf(requirement)
    this.#seen.delete(key)
    this.#seen.set(key, { requirement, lastMs: nowMs })
  }
}
