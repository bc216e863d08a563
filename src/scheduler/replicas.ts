/**
 * Replicas: what was asked for is to be on two store nodes before its request is done, and is brought
 * there in the background where that did not come about in time or came undone.
 *
 * The client's own copy counts as one. Which store nodes have a step's outputs is durable; what is being
 * copied, and what is tried again when, is not.
 */
import type { PeerRecord } from '../wire/peer-record.ts'
import { blobOf, type Entry } from '../wire/tree.ts'
import type { Core } from './core.ts'
import type { Copy } from './events.ts'
import { runnerOf, type Request, type Step } from './model.ts'

const REPLICAS_WANTED = 2
/** Store nodes that are considered for one copy; of those below children only so many. */
const TAKERS_MAX = 256
/** A request whose outputs are made waits this long for its replicas, then it is done without. */
export const STORING_MS_MAX = 60_000
/** A store node that has been away for this long does not count any more. */
export const STORE_GONE_MS = 3600_000
/** Done requests that are copied in the background; of more the oldest are left as they are. */
export const REPAIRS_MAX = 1_000
/** Copies under way, and how many of them may be repairs. */
const COPIES_MAX = 32
const REPAIR_COPIES_MAX = 4
const COPIES_PER_REQUEST_MAX = 2
/** Entries of one copy, unless one step alone has more. */
const COPY_ENTRIES_MAX = 1_000
/** Waits after the first, second ... failed copy to one store; then not again until a node connects. */
const RETRY_MS = [1_000, 4_000, 16_000, 60_000, 60_000] as const

interface Failed {
  readonly count: number
  readonly againAtMs: number
}

/** What is done for one request. */
interface Care {
  /** When a request that waits for its replicas is done without them; infinity for one that is done. */
  readonly untilMs: number
  /** By peer id of the store; no more of them than nodes. */
  readonly failed: Map<string, Failed>
  /** What the last failure was. */
  problem: string
}

interface Running extends Copy {
  readonly request: Request
  /** With the outputs that are copied. */
  readonly steps: ReadonlyMap<Step, Step['outputs']>
}

export class Replicas {
  readonly #core: Core
  /** When `tick` is due; infinity for never. */
  nextDeadlineMs = Number.POSITIVE_INFINITY
  /** Requests whose outputs are all made, the one that waits longest first. */
  readonly #storing = new Map<Request, Care>()
  /** Done requests with too few replicas, the one that ended first comes first. */
  readonly #repairs = new Map<Request, Care>()
  readonly #copies = new Map<string, Running>()
  #copyCount = 0
  /** Stores that are away and still count, with the time when they no longer do. */
  readonly #away = new Map<string, number>()
  /** Requests that the plan has not seen yet. */
  readonly #fresh = new Set<Request>()
  /** Whether anything has changed that the plan for all of them hangs on. */
  #isDirty = false

  constructor(core: Core) {
    this.#core = core
  }

  /** After the replay: nobody is connected yet, and done requests with too few replicas are taken up again. */
  recover(): void {
    const goneAtMs = this.#core.moment.nowMs + STORE_GONE_MS
    for (const step of this.#core.state.steps.values())
      for (const peerId of step.stores.keys()) this.#away.set(peerId, goneAtMs)
    for (const request of this.#core.state.finished) this.#repair(request)
  }

  /** The name of the peer if it is a store node that is there. */
  storeName(peerId: string): string | undefined {
    const record = this.#core.recordOf(peerId)
    return record !== undefined && isStore(record) ? record.name : undefined
  }

  /** The fewest copies that any requested output has; undefined while one is not made. */
  countOf(request: Request): number | undefined {
    let fewest = REPLICAS_WANTED
    for (const step of request.steps.values()) {
      if (!step.isWanted) continue
      if (step.phase !== 'done') return undefined
      fewest = Math.min(fewest, this.#countOf(step))
    }
    return fewest
  }

  #countOf(step: Step): number {
    // What has no bytes cannot be lost.
    if (entriesOf(step).length === 0) return REPLICAS_WANTED
    let count = step.request.takesCopy ? 1 : 0
    for (const peerId of step.stores.keys())
      if (this.#away.has(peerId) || this.storeName(peerId) !== undefined) count += 1
    return count
  }

  /** Where the outputs of a requested step are kept, in words; undefined for others. */
  describe(step: Step): string | undefined {
    if (!step.isWanted || step.phase !== 'done') return undefined
    const { request } = step
    const names = [...step.stores.values()]
    if (request.takesCopy) names.push('the client')
    const kept = `kept by ${names.length === 0 ? 'no store node' : names.join(', ')}`
    if (this.#countOf(step) >= REPLICAS_WANTED) return kept
    const care = this.#storing.get(request) ?? this.#repairs.get(request)
    const problem = care === undefined || care.problem === '' ? '' : `; ${care.problem}`
    return this.#storing.has(request)
      ? `${kept}; its request waits for a second copy${problem}`
      : `${kept}; a second copy is made in the background${problem}`
  }

  /** All of the request is made: it is done at once when there is nothing to wait for. */
  settle(request: Request): void {
    if (this.#storing.has(request)) return
    const lacking = this.#lacking(request)
    if (lacking.length === 0 || !this.#isHopeful(lacking)) this.#close(request, lacking)
    else this.#wait(request)
  }

  /** It waited before a restart of the owner: the stores that it waited for may come back. */
  resume(request: Request): void {
    if (this.#lacking(request).length === 0) this.settle(request)
    else this.#wait(request)
  }

  /** The client takes no copy after all. */
  left(request: Request): void {
    this.#isDirty = true
    this.#repair(request)
  }

  #wait(request: Request): void {
    const untilMs = this.#core.moment.nowMs + STORING_MS_MAX
    this.#storing.set(request, { untilMs, failed: new Map(), problem: '' })
    this.#fresh.add(request)
  }

  #lacking(request: Request): Step[] {
    return [...request.steps.values()].filter(
      (step) => step.isWanted && step.phase === 'done' && this.#countOf(step) < REPLICAS_WANTED,
    )
  }

  /** Whether a store is there that could take one of these. */
  #isHopeful(lacking: readonly Step[]): boolean {
    for (const peerId of this.#takers())
      if (lacking.some((step) => !step.stores.has(peerId))) return true
    return false
  }

  /** Store nodes that could take a copy: own nodes, then some of those further below. */
  #takers(): string[] {
    const takers: string[] = []
    for (const node of this.#core.nodes.values())
      if (node.connected && isStore(node.record) && node.told.state !== 'full')
        takers.push(node.peerId)
    for (const { record } of this.#core.members.stores) {
      if (takers.length >= TAKERS_MAX) break
      takers.push(record.peerId)
    }
    return takers
  }

  #close(request: Request, lacking: readonly Step[]): void {
    const care = this.#storing.get(request)
    this.#storing.delete(request)
    if (lacking.some((step) => this.#countOf(step) === 0))
      this.#core.requests.notice(
        request,
        'its outputs are on no store node: the node that made them may drop them; copies are made once a store node is there',
      )
    this.#core.requests.close(request, 'done')
    this.#repair(request, care)
  }

  /** What was tried before counts. */
  #repair(request: Request, before?: Care): void {
    // An old journal does not say where the outputs are.
    if (request.state !== 'done' || request.replicasAtEnd === undefined) return
    if (this.#repairs.has(request) || this.#lacking(request).length === 0) return
    const { failed, problem } = before ?? { failed: new Map<string, Failed>(), problem: '' }
    this.#repairs.set(request, { untilMs: Infinity, failed, problem })
    if (this.#repairs.size > REPAIRS_MAX) {
      const [oldest] = this.#repairs.keys()
      if (oldest !== undefined) this.#repairs.delete(oldest)
    }
    this.#fresh.add(request)
  }

  /** What was given up may succeed with another store, or with one who has what is to be copied. */
  nodeUp(record: PeerRecord): void {
    const counted = this.#away.delete(record.peerId)
    this.#isDirty = true
    if (counted && !isStore(record)) this.#repairAll()
    for (const care of [...this.#storing.values(), ...this.#repairs.values()]) care.failed.clear()
  }

  nodeDown(record: PeerRecord): void {
    this.#isDirty = true
    if (isStore(record)) this.#away.set(record.peerId, this.#core.moment.nowMs + STORE_GONE_MS)
  }

  /** A node can take more, or less, than before. */
  nodeChanged(): void {
    this.#isDirty = true
  }

  /** What had enough replicas may have too few now. */
  #repairAll(): void {
    for (const request of this.#core.state.finished) this.#repair(request)
  }

  copied(id: string, ok: boolean, message: string): void {
    const copy = this.#copies.get(id)
    if (copy === undefined) return
    this.#copies.delete(id)
    this.#isDirty = true
    const { request, to, steps } = copy
    const record = this.#core.recordOf(to)
    const care = this.#storing.get(request) ?? this.#repairs.get(request)
    if (!ok || record === undefined) {
      if (care !== undefined) this.#failed(care, to, message)
      return
    }
    care?.failed.delete(to)
    if (this.#core.state.requests.get(request.wire.id) !== request) return
    for (const [step, outputs] of steps) {
      // It may have been made anew meanwhile.
      if (step.outputs !== outputs || step.phase !== 'done') continue
      this.#core.fact({
        type: 'stored',
        request: request.wire.id,
        derivation: step.derivation.name,
        node: { peerId: to, name: record.name },
      })
    }
    this.#core.effects.push({ type: 'request', request })
  }

  #failed(care: Care, to: string, message: string): void {
    care.problem = `${this.#core.recordOf(to)?.name ?? to} has no copy yet: ${message}`
    const count = (care.failed.get(to)?.count ?? 0) + 1
    const waitMs = RETRY_MS[count - 1] ?? Number.POSITIVE_INFINITY
    care.failed.set(to, { count, againAtMs: this.#core.moment.nowMs + waitMs })
  }

  tick(): void {
    this.#isDirty = true
    let isAnyGone = false
    for (const [peerId, goneAtMs] of this.#away)
      if (goneAtMs <= this.#core.moment.nowMs) isAnyGone = this.#away.delete(peerId) || isAnyGone
    if (isAnyGone) this.#repairAll()
  }

  /** Ends what has waited enough, and begins copies. */
  plan(): void {
    if (!this.#isDirty && this.#fresh.size === 0) return
    while (this.#isDirty || this.#fresh.size > 0) {
      const storing = this.#isDirty ? [...this.#storing.keys()] : [...this.#fresh]
      const repairs = this.#isDirty ? [...this.#repairs.keys()].toReversed() : [...this.#fresh]
      this.#isDirty = false
      this.#fresh.clear()
      for (const request of storing) this.#advance(request)
      this.#repairSome(repairs)
    }
    this.nextDeadlineMs = this.#dueMs()
  }

  /** When the plan has to be made anew for the mere passing of time. */
  #dueMs(): number {
    const { nowMs } = this.#core.moment
    let next = Number.POSITIVE_INFINITY
    const consider = (atMs: number): void => {
      if (atMs > nowMs) next = Math.min(next, atMs)
    }
    for (const cares of [this.#storing, this.#repairs])
      for (const care of cares.values()) {
        consider(care.untilMs)
        for (const { againAtMs } of care.failed.values()) consider(againAtMs)
      }
    if (this.#storing.size > 0) consider(this.#core.recoveringUntilMs)
    for (const goneAtMs of this.#away.values()) consider(goneAtMs)
    return next
  }

  #repairSome(requests: readonly Request[]): void {
    for (const request of requests) {
      const care = this.#repairs.get(request)
      if (care === undefined) continue
      if (this.#copiesOf((copy) => this.#repairs.has(copy.request)) >= REPAIR_COPIES_MAX) return
      const isKept = this.#core.state.requests.get(request.wire.id) === request
      const lacking = isKept && request.state === 'done' ? this.#lacking(request) : []
      if (lacking.length === 0) this.#repairs.delete(request)
      else this.#copy(request, care, lacking)
    }
  }

  #advance(request: Request): void {
    const care = this.#storing.get(request)
    if (care === undefined) return
    if (request.state !== 'active' || request.unsettledCount > 0) {
      this.#storing.delete(request)
      return
    }
    const lacking = this.#lacking(request)
    const isLate = this.#core.moment.nowMs >= care.untilMs
    const isRecovering = this.#core.moment.nowMs < this.#core.recoveringUntilMs
    if (lacking.length > 0 && !isLate && (isRecovering || this.#isHopeful(lacking))) {
      this.#copy(request, care, lacking)
      return
    }
    if (lacking.length > 0 && isLate)
      this.#core.requests.notice(
        request,
        `its outputs have too few copies after ${STORING_MS_MAX / 1000} s (${care.problem || 'still copying'}); it goes on in the background`,
      )
    this.#close(request, lacking)
  }

  #copiesOf(is: (copy: Running) => boolean): number {
    let count = 0
    for (const copy of this.#copies.values()) if (is(copy)) count += 1
    return count
  }

  #copy(request: Request, care: Care, lacking: readonly Step[]): void {
    const targets = this.#takers()
      .filter(
        (peerId) =>
          (care.failed.get(peerId)?.againAtMs ?? 0) <= this.#core.moment.nowMs &&
          this.#copiesOf((copy) => copy.request === request && copy.to === peerId) === 0,
      )
      .map((peerId) => ({ peerId, load: this.#copiesOf((copy) => copy.to === peerId) }))
      .toSorted((a, b) => a.load - b.load)
    for (const { peerId } of targets) {
      if (this.#copies.size >= COPIES_MAX) return
      if (this.#copiesOf((copy) => copy.request === request) >= COPIES_PER_REQUEST_MAX) return
      this.#begin(request, peerId, lacking)
    }
  }

  /** Copies to the store what it lacks of these, as long as they would still be too few with what is on its way. */
  #begin(request: Request, to: string, lacking: readonly Step[]): void {
    const steps = new Map<Step, Step['outputs']>()
    const entries: Entry[] = []
    const from = new Set<string>()
    for (const step of lacking) {
      const coming = this.#copiesOf((copy) => copy.steps.get(step) === step.outputs)
      if (step.stores.has(to) || this.#countOf(step) + coming >= REPLICAS_WANTED) continue
      const more = entriesOf(step)
      if (entries.length > 0 && entries.length + more.length > COPY_ENTRIES_MAX) break
      steps.set(step, step.outputs)
      entries.push(...more)
      const maker = step.job?.attempts.findLast(({ state }) => state === 'done')
      if (maker !== undefined) from.add(runnerOf(maker).peerId)
      for (const peerId of step.stores.keys()) from.add(peerId)
    }
    if (steps.size === 0) return
    from.delete(to)
    this.#copyCount += 1
    const id = `c-${this.#copyCount}`
    const copy = { id, entries, from: [...from], to }
    this.#copies.set(id, { ...copy, request, steps })
    this.#core.effects.push({ type: 'copy', copy })
  }
}

const isStore = ({ roles }: PeerRecord): boolean => roles.includes('store')

/** What a step's outputs consist of, without those that have no bytes. */
function entriesOf(step: Step): Entry[] {
  return Object.values(step.outputs ?? {}).filter((entry) => blobOf(entry) !== undefined)
}
