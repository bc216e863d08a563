/**
 * One answer out of several: what the owner knows itself, and what those say who speak for a subtree. What
 * did not answer is named as unknown, never guessed.
 */
import {
  WHY_NODES_MAX,
  type Verdict,
  type Why,
  type WhyGroup,
  type WhyNode,
  type WhyPart,
} from '../../wire/api.ts'
import { closestText, shownRequirements } from './closest.ts'
import { fixesOf, fixText, type FixContext } from './fixes.ts'
import { groupsOf, lackOf, mergeGroups } from './groups.ts'
import { listSome } from './words.ts'

/** What the rest of the answer hangs on besides the rows. */
export interface Completion extends Pick<FixContext, 'step' | 'away' | 'parent'> {
  readonly onlyNode: string | undefined
}

/** The own rows of a subtree's speaker are left out of `why`: its part has them. */
export function mergeWhy(
  why: Why,
  parts: readonly WhyPart[],
  unknown: readonly string[],
  completion: Completion,
): Why {
  const { onlyNode } = completion
  const below = parts.flatMap((part) =>
    part.nodes
      .filter(({ node }) => onlyNode === undefined || node === onlyNode)
      .map((node): WhyNode => ({ ...node, by: node.by ?? part.by })),
  )
  const groups = mergeGroups([...(why.groups ?? []), ...parts.flatMap((part) => part.groups)])
  const allUnknown = [...unknown, ...parts.flatMap((part) => part.unknown)]
  return completeWhy(
    {
      ...why,
      ...judgedAnew(why, parts, allUnknown),
      nodes: [...why.nodes, ...below],
      groups,
      nodeCount: (why.nodeCount ?? why.nodes.length) + sumOf(parts),
      parts: [...(why.parts ?? []), ...parts.map(({ by, asOf, count }) => ({ by, asOf, count }))],
      unknown: allUnknown,
    },
    completion,
  )
}

/** What no node that the owner sees can do, those below another may; and while one is silent nobody knows. */
function judgedAnew(
  why: Why,
  parts: readonly WhyPart[],
  unknown: readonly string[],
): Partial<Pick<Why, 'class' | 'summary'>> {
  const canAny = [...(why.groups ?? []), ...parts.flatMap(({ groups }) => groups)].some(
    ({ verdicts }) => mayMatch(verdicts),
  )
  if (['busy', 'away', 'subtree'].includes(why.class ?? '') && !canAny && unknown.length === 0)
    return {
      class: 'unsatisfiable',
      summary: `${why.name} waits: no node matches its requirements`,
    }
  if (why.class !== 'unsatisfiable') return {}
  const matching = parts.filter(({ groups }) => groups.some(({ verdicts }) => mayMatch(verdicts)))
  const names = listSome(matching.map(({ by }) => by))
  if (matching.some(({ groups }) => groups.some(isThere)))
    return { class: 'busy', summary: `${why.name} waits: the nodes that match are below ${names}` }
  if (matching.length > 0)
    return {
      class: 'away',
      summary: `${why.name} waits: waiting, not failed: the nodes that match are below ${names}, and not there`,
    }
  if (unknown.length === 0) return {}
  return {
    class: 'subtree',
    summary: `${why.name} waits: no node that has answered matches its requirements; what those below ${listSome(unknown)} have is not known`,
  }
}

const mayMatch = (verdicts: readonly Verdict[]): boolean =>
  verdicts.every(({ ok, permanent }) => ok || !permanent)

const isThere = ({ verdicts }: WhyGroup): boolean =>
  mayMatch(verdicts) && verdicts.some(({ requirement, ok }) => requirement === 'state' && ok)

/** Several answers of one subtree as one: those of a node's own children with its own. */
export function mergeParts(
  own: WhyPart,
  below: readonly WhyPart[],
  unknown: readonly string[],
): WhyPart {
  return {
    ...own,
    nodes: [
      ...own.nodes,
      ...below.flatMap((part) =>
        part.nodes.map((node): WhyNode => ({ ...node, by: node.by ?? part.by })),
      ),
    ]
      .toSorted((a, b) => lackOf(a.verdicts) - lackOf(b.verdicts))
      .slice(0, WHY_NODES_MAX),
    groups: mergeGroups([...own.groups, ...below.flatMap((part) => part.groups)]),
    count: own.count + sumOf(below),
    unknown: [...own.unknown, ...unknown, ...below.flatMap((part) => part.unknown)],
  }
}

const sumOf = (parts: readonly WhyPart[]): number =>
  parts.reduce((sum, { count }) => sum + count, 0)

/** What follows from the rows: which requirements are shown, who is closest, what can be done. */
export function completeWhy(why: Why, { step, away, parent }: Completion): Why {
  const groups = why.groups ?? groupsOf(why.nodes)
  const canCross = step.derivation.hosts.length === 0
  const context = { step, groups, away, parent, hasOthersAhead: (why.position?.n ?? 1) > 1 }
  const advice = fixesOf({ ...context, class: why.class })
  if (why.class === 'inputs' && isHopeless(why, groups))
    advice.push(...fixesOf({ ...context, class: 'unsatisfiable' }))
  const closest = isHopeless(why, groups) ? closestText(why.nodes, groups) : undefined
  const systems = new Set(
    canCross && closest !== undefined
      ? groups.flatMap(({ verdicts }) => verdicts.flatMap(({ cross }) => cross ?? []))
      : [],
  )
  return {
    ...why,
    nodes: why.nodes
      .toSorted((a, b) => lackOf(a.verdicts) - lackOf(b.verdicts))
      .slice(0, WHY_NODES_MAX),
    groups,
    rows: shownRequirements(groups),
    notes: [...systems].map(
      (system) => `would match with a cross build: this derivation has no when.host = "${system}"`,
    ),
    closest: closest ?? null,
    fixes: advice.map(fixText),
    advice,
  }
}

/** No node could build it, also once what it waits for is there. */
function isHopeless({ class: reason, unknown }: Why, groups: readonly WhyGroup[]): boolean {
  if (reason === 'unsatisfiable' || reason === 'rebind') return true
  if (reason !== 'inputs' && reason !== 'held') return false
  const isKnown = unknown.length === 0 && groups.length > 0
  return isKnown && groups.every(({ verdicts }) => !mayMatch(verdicts))
}
