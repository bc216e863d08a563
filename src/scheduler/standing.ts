/** What a node is taken for: what it says of itself, unless it is away, drained, in quarantine, or refuses all. */
import type { NodeState } from '../wire/api.ts'
import type { Core } from './core.ts'
import { drainNote } from './drains.ts'
import { isLive, type NodeEntry } from './model.ts'

export class Standing {
  readonly #core: Core

  constructor(core: Core) {
    this.#core = core
  }

  /** Judges the node anew. Cheap: called whenever anything that it hangs on may have changed. */
  refresh(node: NodeEntry): void {
    if (!node.connected) return
    const { state, note } = this.#judge(node)
    const before = node.state
    if (before === state && node.note === note) return
    node.state = state
    node.note = note
    if (before === state) return
    this.#core.replicas.nodeChanged()
    this.#core.waiting.nodeChanged(node)
    const drain = this.#core.drains.of(node)
    if (drain !== undefined && before !== 'draining' && before !== 'drained')
      this.#core.drains.empty(node, drain)
  }

  #judge(node: NodeEntry): { readonly state: NodeState; readonly note: string } {
    const drain = this.#core.drains.of(node)
    if (drain !== undefined)
      return { state: isIdle(node) ? 'drained' : 'draining', note: drainNote(drain) }
    if (node.told.state === 'draining') return node.told
    const quarantined = this.#core.quarantine.of(node)
    if (quarantined !== undefined) return { state: 'quarantined', note: quarantined.reason }
    const refusal = this.#core.refusals.ofNode(node.peerId)
    if (refusal !== undefined)
      return { state: 'full', note: `it refuses all jobs for now: ${refusal.reason}` }
    return node.told
  }
}

/** Whether nothing runs there, as far as is known. */
function isIdle(node: NodeEntry): boolean {
  if (node.running.size > 0) return false
  for (const attempt of node.attempts) if (isLive(attempt)) return false
  for (const { finished } of node.relayed.values()) if (finished === undefined) return false
  return true
}
