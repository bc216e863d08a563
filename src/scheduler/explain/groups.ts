/**
 * Nodes that are alike: of hundreds of nodes a person wants to see the few kinds of them. Two nodes are
 * alike when they pass and fail the same requirements, each for good or for now.
 */
import { formatSize } from '../../base/units.ts'
import { WHY_GROUPS_MAX, type Verdict, type WhyGroup, type WhyNode } from '../../wire/api.ts'

/** Names that a group lists. */
const NAMES_MAX = 5

/** Those that come closest to matching first; over WHY_GROUPS_MAX the others share the last one. */
export function groupsOf(nodes: readonly WhyNode[]): WhyGroup[] {
  const kinds = new Map<string, WhyNode[]>()
  for (const node of nodes) {
    const key = kindOf(node)
    const kind = kinds.get(key)
    if (kind === undefined) kinds.set(key, [node])
    else kind.push(node)
  }
  const sorted = [...kinds.values()].toSorted(
    (a, b) => lackOf(a[0]?.verdicts ?? []) - lackOf(b[0]?.verdicts ?? []) || b.length - a.length,
  )
  const shown = sorted.slice(0, WHY_GROUPS_MAX - 1)
  const rest = sorted.slice(WHY_GROUPS_MAX - 1).flat()
  if (rest.length > 0) shown.push(rest)
  const titles = titlesOf(shown)
  return shown.map((kind, at) => ({
    title: titles[at] ?? '',
    count: kind.length,
    nodes: kind.slice(0, NAMES_MAX).map(({ node }) => node),
    ...mergeAll(kind),
  }))
}

/** How far from matching: what time cannot change weighs more than anything that it can. */
export function lackOf(verdicts: readonly Verdict[]): number {
  let lack = 0
  for (const { ok, permanent } of verdicts) if (!ok) lack += permanent ? 1_000 : 1
  return lack
}

/** Groups of several answers, those of equal kind together. */
export function mergeGroups(groups: readonly WhyGroup[]): WhyGroup[] {
  const kinds = new Map<string, WhyGroup>()
  for (const group of groups) {
    const key = `${group.title} ${kindOf(group)}`
    const before = kinds.get(key)
    kinds.set(
      key,
      before === undefined
        ? group
        : {
            ...before,
            count: before.count + group.count,
            nodes: [...before.nodes, ...group.nodes].slice(0, NAMES_MAX),
            ...mergeAll([before, group]),
          },
    )
  }
  return [...kinds.values()]
    .toSorted((a, b) => lackOf(a.verdicts) - lackOf(b.verdicts) || b.count - a.count)
    .slice(0, WHY_GROUPS_MAX)
}

interface Judged {
  readonly cpus?: WhyNode['cpus']
  readonly verdicts: readonly Verdict[]
}

const kindOf = ({ verdicts }: Judged): string =>
  verdicts
    .map(
      ({ requirement, ok, permanent, brief = '', cross = '' }) =>
        `${requirement} ${ok ? 'yes' : permanent ? 'NO' : 'no'} ${cross}${
          // Of what keeps a node away the kind counts, not for how long.
          requirement === 'state' && !ok ? (brief.split(' ')[0] ?? '') : ''
        }`,
    )
    .join('\n')

/** One column for all of them: amounts that differ become the largest of them, processors their sum. */
function mergeAll(kind: readonly Judged[]): Required<Pick<WhyGroup, 'cpus' | 'verdicts'>> {
  const cpus = { total: 0, busy: 0 }
  for (const one of kind) {
    cpus.total += one.cpus?.total ?? 0
    cpus.busy += one.cpus?.busy ?? 0
  }
  const verdicts = (kind[0]?.verdicts ?? []).map((verdict, at) => {
    const all = kind.flatMap((one) => one.verdicts[at] ?? [])
    const briefs = [...new Set(all.map(({ brief = '' }) => brief))]
    const total = Math.max(0, ...all.map((one) => one.total ?? 0))
    if (verdict.requirement === 'state' && verdict.ok && cpus.busy > 0)
      return { ...verdict, brief: `busy ${cpus.busy}/${cpus.total}` }
    return briefs.length <= 1
      ? verdict
      : {
          ...verdict,
          brief: mergedBrief(verdict, briefs, total),
          ...(total > 0 ? { total } : {}),
        }
  })
  return { cpus, verdicts }
}

function mergedBrief(verdict: Verdict, briefs: readonly string[], total: number): string {
  switch (verdict.requirement) {
    case 'state':
      return briefs[0]?.split(' ')[0] ?? ''
    case 'cpus':
      return verdict.permanent ? `<=${total}` : 'full'
    case 'memory':
    case 'disk':
      return verdict.permanent ? `<=${formatSize(total)}` : 'full'
    default:
      return 'various'
  }
}

/**
 * What the nodes of each group have in common that no other group of several has: the beginning of their
 * names, their architecture, else only the first of them.
 */
function titlesOf(kinds: readonly (readonly WhyNode[])[]): string[] {
  const several = kinds.map((kind) => (kind.length > 1 ? kind : []))
  const prefixes = several.map((kind) => prefixOf(kind.map(({ node }) => node)))
  const isOwn = (names: readonly (string | undefined)[], at: number): boolean =>
    names[at] !== undefined && names.filter((other) => other === names[at]).length === 1
  const systems = several.map((kind, at) => (isOwn(prefixes, at) ? undefined : systemOf(kind)))
  return kinds.map((kind, at) => {
    const first = kind[0]?.node ?? ''
    if (kind.length === 1) return first
    if (isOwn(prefixes, at)) return `${prefixes[at] ?? ''}*`
    return isOwn(systems, at) ? (systems[at] ?? '') : `${first}…`
  })
}

/** The beginning that all names have, up to a mark or a number; undefined for less than two letters. */
function prefixOf(names: readonly string[]): string | undefined {
  let prefix = names[0] ?? ''
  for (const name of names) while (!name.startsWith(prefix)) prefix = prefix.slice(0, -1)
  const [cut = ''] = /^.*[^0-9A-Za-z]|^\D*/.exec(prefix) ?? []
  return cut.length >= 2 ? cut : undefined
}

/** The one architecture of a group: `x86_64`. */
function systemOf(kind: readonly WhyNode[]): string | undefined {
  const systems = new Set(
    kind.map(
      ({ verdicts }) => verdicts.find(({ requirement }) => requirement === 'system')?.have ?? '',
    ),
  )
  const [only = ''] = systems
  return systems.size === 1 && only !== '' ? only.split(', ')[0]?.split('-')[0] : undefined
}
