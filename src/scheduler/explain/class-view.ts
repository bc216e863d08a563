/**
 * What all waiting jobs of one class have in common: which nodes could ever take them, and which of those
 * are there. Computed once per class and set of nodes, so that a list of ten thousand jobs costs no more
 * than its classes do.
 */
import type { Core } from '../core.ts'
import { describeMisfit, mayEverStart, type Requirement } from '../match.ts'
import type { NodeEntry, WaitReason } from '../model.ts'
import { absenceReason } from './absence.ts'
import { listSome } from './words.ts'

/** What the closest node lacks, of a class that no node can ever run. */
type Misfit = ReturnType<typeof describeMisfit>

export interface ClassView {
  /** They match now, or may when they are back, free or probed. */
  readonly possible: readonly NodeEntry[]
  /** Of those, the ones that are there and ready. */
  readonly present: readonly NodeEntry[]
  /** Nodes that build at all and are not there, whether they match or not. */
  readonly awayCount: number
  readonly workerCount: number
  /** Processors of all nodes that are there. */
  readonly cpuCount: number
  /** Undefined while some node may run it. */
  readonly misfit: Misfit | undefined
  /** Why none of `possible` is there, where some would match. */
  readonly absence: WaitReason | undefined
  /** In a few words. */
  readonly brief: string
  /** That all of `present` are busy, if they are. */
  readonly busyText: string
}

/** Classes that are remembered at once; over it all are computed anew. */
const CLASSES_MAX = 4_096

export class ClassViews {
  readonly #core: Core
  /** By key of the requirement: the nodes that may ever run it. */
  readonly #possible = new Map<string, Pick<ClassView, 'possible' | 'misfit'>>()
  #version = -1
  readonly #views = new Map<string, ClassView>()
  #turn = -1
  /** Classes judged so far, for those who count the cost. */
  judgedCount = 0

  constructor(core: Core) {
    this.#core = core
  }

  of(requirement: Requirement): ClassView {
    // Between two events nothing changes.
    if (this.#turn !== this.#core.turn || this.#views.size >= CLASSES_MAX) {
      this.#turn = this.#core.turn
      this.#views.clear()
    }
    const known = this.#views.get(requirement.key)
    if (known !== undefined) return known
    const { possible, misfit } = this.#possibleFor(requirement)
    let awayCount = 0
    let workerCount = 0
    let cpuCount = 0
    for (const node of this.#core.nodes.values()) {
      if (!isWorker(node)) continue
      workerCount += 1
      if (isPresent(node)) cpuCount += node.capacity.cpus
      else awayCount += 1
    }
    const present = possible.filter(isPresent)
    const counted = { possible, present, awayCount, workerCount }
    const view: ClassView = {
      ...counted,
      cpuCount,
      misfit,
      absence: possible.length > 0 && present.length === 0 ? absenceReason(possible) : undefined,
      brief: briefOf(counted),
      busyText: busyTextOf(present),
    }
    this.#views.set(requirement.key, view)
    return view
  }

  /** Judged anew only when some node has become another in what decides it. */
  #possibleFor(requirement: Requirement): Pick<ClassView, 'possible' | 'misfit'> {
    const { profiles, nodes } = this.#core
    if (this.#version !== profiles.version || this.#possible.size >= CLASSES_MAX) {
      this.#version = profiles.version
      this.#possible.clear()
    }
    const known = this.#possible.get(requirement.key)
    if (known !== undefined) return known
    this.judgedCount += 1
    const possible: NodeEntry[] = []
    for (const node of nodes.values()) {
      if (!isWorker(node)) continue
      const seat = profiles.seatOf(node)
      // What hangs on the environments is known of the whole profile; the checks have the last word.
      if (seat !== undefined && !profiles.fitOf(requirement, seat).isPossible) continue
      if (mayEverStart(requirement, node)) possible.push(node)
    }
    const misfit =
      possible.length === 0 ? describeMisfit(requirement, [...nodes.values()]) : undefined
    const judged = { possible, misfit }
    this.#possible.set(requirement.key, judged)
    return judged
  }
}

/** It builds, or leads to nodes that do. */
export const isWorker = (node: NodeEntry): boolean =>
  node.environments.length > 0 || node.record.roles.includes('worker')

export const isPresent = (node: NodeEntry): boolean => node.connected && node.state === 'ready'

/** `1/35 building, 3/4 away could build this`. */
function briefOf({
  possible,
  present,
  awayCount,
  workerCount,
}: Pick<ClassView, 'possible' | 'present' | 'awayCount' | 'workerCount'>): string {
  if (possible.length === 0) return `0/${workerCount} could build this`
  const building = present.filter(({ allocated }) => allocated.cpus > 0).length
  const there = `${building}/${present.length} building`
  if (awayCount === 0) return there
  return `${there}, ${possible.length - present.length}/${awayCount} away could build this`
}

/** Of a subtree only the node that speaks for it is seen. */
function busyTextOf(present: readonly NodeEntry[]): string {
  const subtrees = present.filter(({ bundle }) => bundle !== undefined)
  const nodeCount = present.length - subtrees.length
  const nodes =
    nodeCount === 1 ? 'the 1 matching node is busy' : `all ${nodeCount} matching nodes are busy`
  if (subtrees.length === 0) return nodes
  const below = `there is no room below ${listSome(subtrees.map(({ record }) => record.name))}`
  return nodeCount === 0 ? below : `${nodes}, and ${below}`
}
