/**
 * What this node cannot say by itself of the nodes below its children: each child that speaks for a subtree
 * is asked, with a deadline. Who does not answer in time is named as unknown.
 */
import { z } from 'zod'
import { deadline, type Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { mapLimited } from '../../files/map-limited.ts'
import { mergeParts } from '../../scheduler/explain/merge.ts'
import type { Step } from '../../scheduler/model.ts'
import { requirementFromWire, requirementToWire } from '../../scheduler/requirement-wire.ts'
import { standingView } from '../../scheduler/standing-view.ts'
import { nodeView, whyView } from '../../scheduler/views.ts'
import { NodeView, WhyPart, type Why } from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import { ApiAnswer, type Call, type RequirementWire } from '../../wire/work-messages.ts'
import type { PeerLink } from '../links/peer-link.ts'
import type { Owner } from './owner.ts'

/** Each level waits less than the one above it, so that what is known below arrives. */
const SURVEY_MS = 4_000
const SURVEY_MS_MIN = 500
const LEVEL_MS = 700
const ASKED_AT_ONCE = 64

/** Paths that a parent asks for. */
const NODES_PATH = '/api/nodes'
const WHY_PATH = '/api/why'

interface SurveyDeps {
  readonly clock: Clock
  readonly owner: Owner
  readonly self: () => PeerRecord
  /** Links of children that may speak for a subtree. */
  readonly subtrees: () => readonly PeerLink[]
}

/** `depth` is how many nodes above wait for the answer too. */
export interface Asked {
  readonly depth: number
  readonly signal: AbortSignal
}

interface Part<T> {
  readonly peerId: string
  readonly name: string
  /** Undefined where there was no answer in time. */
  readonly said: T | undefined
}

export class Survey {
  readonly #deps: SurveyDeps

  constructor(deps: SurveyDeps) {
    this.#deps = deps
  }

  /** What a parent asks. Throws MESH0601 for what it should not. */
  async answer(
    { path, requirement, depth }: Extract<Call, { method: 'survey' }>,
    signal: AbortSignal,
  ): Promise<ApiAnswer> {
    const asked = { depth: depth + 1, signal }
    if (path === NODES_PATH) return { status: 200, body: JSON.stringify(await this.nodes(asked)) }
    if (path === WHY_PATH && requirement !== undefined)
      return { status: 200, body: JSON.stringify(await this.#part(requirement, asked)) }
    throw new MeshError('MESH0601', `nobody below is asked for ${path}`)
  }

  /** The nodes of all levels. A subtree that does not answer is one row, which says so. */
  async nodes(asked: Asked): Promise<NodeView[]> {
    const surveyed = await this.#ask(z.array(NodeView), { path: NODES_PATH }, asked)
    const parts = new Map(surveyed.map((part) => [part.peerId, part]))
    const { name } = this.#deps.self()
    return this.#ownNodes().flatMap((row) => {
      const part = parts.get(row.peerId)
      if (part === undefined) return [row]
      if (part.said === undefined)
        return [{ ...row, note: 'what is below it is not known: it did not answer in time' }]
      // The row of the one who speaks for the subtree comes from itself: only there is it a single machine.
      return part.said.map((node) =>
        node.peerId === row.peerId ? { ...node, parent: name } : node,
      )
    })
  }

  /** Those that are seen from here. */
  #ownNodes(): NodeView[] {
    const { owner, self } = this.#deps
    const { scheduler } = owner
    const moment = owner.moment()
    return [...scheduler.nodes.values()].map((node) => {
      const view = nodeView(node, self().name, standingView(scheduler, node, moment))
      return node.peerId === self().peerId ? { ...view, parent: null } : view
    })
  }

  async why(step: Step, onlyNode: string | undefined, asked: Asked): Promise<Why> {
    const { scheduler } = this.#deps.owner
    const { explainer } = scheduler
    const why = whyView(scheduler, step, this.#deps.owner.moment(), onlyNode)
    if (why.unknown.length === 0) return why
    const requirement = requirementToWire(explainer.requirementOf(step))
    const { parts, unknown } = await this.#parts(requirement, asked)
    return explainer.merge(why, step, { parts, unknown, onlyNode })
  }

  async #part(requirement: RequirementWire, asked: Asked): Promise<WhyPart> {
    const { owner, self } = this.#deps
    const { explainer } = owner.scheduler
    const own = explainer.partOf(requirementFromWire(requirement), self().name, owner.moment())
    const { parts, unknown } = await this.#parts(requirement, asked)
    return mergeParts(own, parts, unknown)
  }

  async #parts(
    requirement: RequirementWire,
    asked: Asked,
  ): Promise<{ readonly parts: WhyPart[]; readonly unknown: string[] }> {
    const surveyed = await this.#ask(WhyPart, { path: WHY_PATH, requirement }, asked)
    return {
      parts: surveyed.flatMap(({ said }) => said ?? []),
      unknown: surveyed.flatMap(({ said, name }) => (said === undefined ? [name] : [])),
    }
  }

  async #ask<T>(
    schema: z.ZodType<T>,
    question: { readonly path: string; readonly requirement?: RequirementWire },
    { depth, signal }: Asked,
  ): Promise<Part<T>[]> {
    const { nodes } = this.#deps.owner.scheduler
    const heads = this.#deps
      .subtrees()
      .filter(({ peerId }) => nodes.get(peerId)?.bundle !== undefined)
    if (heads.length === 0) return []
    const limit = deadline(
      this.#deps.clock,
      Math.max(SURVEY_MS_MIN, SURVEY_MS - depth * LEVEL_MS),
      () => new MeshError('MESH0120', 'no answer in time'),
      signal,
    )
    try {
      return await mapLimited(heads, ASKED_AT_ONCE, async (link) => {
        const who = { peerId: link.peerId, name: link.remote.record.name }
        try {
          const call: Call = { method: 'survey', depth, ...question }
          const { status, body } = await link.call(call, ApiAnswer, { signal: limit.signal })
          const said =
            status === 200
              ? parseWith(schema, JSON.parse(body), `answer of ${who.name}`)
              : undefined
          return { ...who, said }
        } catch (error) {
          // Its silence is said in the answer. Only the asker's own end ends the survey.
          signal.throwIfAborted()
          if (!(error instanceof MeshError)) throw error
          return { ...who, said: undefined }
        }
      })
    } finally {
      limit.cancel()
    }
  }
}
