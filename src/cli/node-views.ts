/** What `mesh nodes` and `mesh nodes show` print: the tree of nodes with their states and reasons. Pure. */
import type { JobView, NodeView } from '../wire/api.ts'
import type { PolicyView } from '../wire/policy.ts'
import { formatDuration, formatSize, plural } from '../base/units.ts'
import { printableLine } from './text/style.ts'
import { table, type Column } from './text/table.ts'
import { environmentTexts, systemsText } from './environment-view.ts'
import { attemptTime, since, type ViewOptions } from './query-views.ts'

/** Problems first. */
export const STATE_ORDER: Readonly<Record<NodeView['state'], number>> = {
  broken: 0,
  lost: 1,
  quarantined: 2,
  full: 3,
  drained: 4,
  draining: 5,
  waking: 6,
  sleeping: 7,
  ready: 8,
}
/** Of the tree that is shown by indentation. */
const DEPTH_MAX = 16
/** Characters of a peer id that tell nodes of one name apart; before them all ids of a kind are equal. */
const PEER_PREFIX = '12D3KooW'
const PEER_CHARACTERS = 6

export const isGone = ({ state }: { readonly state: NodeView['state'] }): boolean =>
  state === 'lost' || state === 'broken'

const free = (node: NodeView, what: 'memoryBytes' | 'diskBytes'): string =>
  isGone(node) ? '-' : formatSize(Math.max(0, node.capacity[what] - node.allocated[what]))

interface Placed {
  readonly node: NodeView
  readonly depth: number
  readonly title: string
}

/** Those with a problem first; in a mesh of more than one level each below its parent. */
export function nodeLines(nodes: readonly NodeView[], options: ViewOptions): string[] {
  const tree = inTree(nodes)
  const isDeep = tree.some(({ depth }) => depth > 1)
  const placed = isDeep ? tree : tree.toSorted((a, b) => byProblem(a.node, b.node))
  const columns: Column<Placed>[] = [
    {
      header: 'NODE',
      cell: ({ title, depth }) => (isDeep ? indent(depth, title, options) : title),
    },
    { header: 'STATE', cell: ({ node }) => node.state },
    { header: 'ROLES', spare: 5, cell: ({ node }) => node.roles.join(',') },
    {
      header: 'CPUS',
      align: 'right',
      cell: ({ node }) => `${isGone(node) ? '-' : node.allocated.cpus}/${node.capacity.cpus}`,
    },
    {
      header: 'SPEED',
      align: 'right',
      spare: 2,
      cell: ({ node }) => (node.speed === undefined ? '' : node.speed.toFixed(2)),
    },
    { header: 'SYSTEMS', spare: 1, cell: ({ node }) => systemsText(node.environments) },
    { header: 'SEALED', spare: 4, cell: ({ node }) => sealed(node) },
    {
      header: 'MEM FREE',
      align: 'right',
      spare: 3,
      cell: ({ node }) => free(node, 'memoryBytes'),
    },
    {
      header: 'DISK FREE',
      align: 'right',
      spare: 3,
      cell: ({ node }) => free(node, 'diskBytes'),
    },
    { header: 'VERSION', spare: 6, cell: ({ node }) => node.versions.mesh },
    { header: 'NOTE', cell: ({ node }) => nodeNote(node, options) },
  ]
  return table(columns, placed, options)
}

function sealed({ environments }: NodeView): string {
  if (environments.length === 0) return '-'
  return environments.some(({ isolation }) => isolation === 'namespace') ? 'yes' : 'no'
}

/** Blanks at the head of a cell would be taken away. */
const indent = (depth: number, title: string, { style }: ViewOptions): string =>
  depth === 0 ? title : `${(style.unicode ? '·' : '.').repeat(depth)} ${title}`

/** Why the node is in its state, and until when, as far as anybody said. */
function nodeNote(node: NodeView, options: ViewOptions): string {
  const parts: string[] = []
  const { drain, quarantine } = node
  if (drain !== undefined) {
    const until =
      drain.deadline === null || node.state !== 'draining'
        ? ''
        : `, what runs ends ${inTime(drain.deadline, options)}`
    parts.push(
      `${drain.reason === '' ? 'no reason given' : drain.reason} (${drain.by}, ${since(drain.at, options)} ago${until})`,
    )
  }
  if (quarantine !== undefined)
    parts.push(`${quarantine.reason}; tried again ${inTime(quarantine.until, options)}`)
  if (isGone(node) && node.note === '')
    parts.push(`last seen ${since(node.lastSeenAt, options)} ago`)
  // A node that tells its drain in its own note as well need not say it twice.
  if (node.note !== '' && !(drain !== undefined && node.note.includes(drain.reason)))
    parts.unshift(node.note)
  if (!isGone(node)) parts.push(...restrictionNote(node.policy))
  return parts.join('; ')
}

/** `2 of 16 cpus: ann is at the machine (tty2, idle 4 s); until 18:00`. */
const policyText = ({ cpus, of, reason }: PolicyView): string =>
  `${cpus} of ${plural(of, 'cpu')}: ${reason}`

/** What of a policy is worth saying in a list: that less than all is for builds. */
export const restrictionNote = (policy: PolicyView | undefined): string[] =>
  policy === undefined || policy.cpus >= policy.of ? [] : [policyText(policy)]

function inTime(iso: string, { nowWallMs }: ViewOptions): string {
  const leftMs = Date.parse(iso) - nowWallMs
  return leftMs <= 0 ? 'now' : `in ${formatDuration(leftMs)}`
}

const byProblem = (a: NodeView, b: NodeView): number =>
  STATE_ORDER[a.state] - STATE_ORDER[b.state] || (a.name < b.name ? -1 : 1)

/** Depth first. A node whose parent is not in the list, or that is its own ancestor, stands at the top. */
function inTree(nodes: readonly NodeView[]): Placed[] {
  const names = new Map<string, number>()
  for (const { name } of nodes) names.set(name, (names.get(name) ?? 0) + 1)
  const sorted = nodes.toSorted(byProblem)
  const children = new Map<string, NodeView[]>()
  const heads: NodeView[] = []
  for (const node of sorted) {
    if (node.parent === null || node.parent === node.name || !names.has(node.parent))
      heads.push(node)
    else children.set(node.parent, [...(children.get(node.parent) ?? []), node])
  }
  const placed: Placed[] = []
  const done = new Set<NodeView>()
  const visit = (node: NodeView, depth: number): void => {
    if (done.has(node)) return
    done.add(node)
    placed.push({
      node,
      depth: Math.min(depth, DEPTH_MAX),
      title:
        (names.get(node.name) ?? 0) > 1 ? `${node.name} (${shortPeer(node.peerId)})` : node.name,
    })
    for (const child of children.get(node.name) ?? []) visit(child, depth + 1)
  }
  for (const head of heads) visit(head, 0)
  for (const node of sorted) visit(node, 0)
  return placed
}

/** Enough of a peer id to tell two nodes of one name apart. */
export const shortPeer = (peerId: string): string =>
  peerId.startsWith(PEER_PREFIX)
    ? peerId.slice(PEER_PREFIX.length, PEER_PREFIX.length + PEER_CHARACTERS)
    : peerId.slice(0, PEER_CHARACTERS)

/** The nodes that `text` may mean: a name, a peer id, or the beginning of one. */
export function findNodes(nodes: readonly NodeView[], text: string): NodeView[] {
  const named = nodes.filter(({ name, peerId }) => name === text || peerId === text)
  return named.length > 0
    ? named
    : nodes.filter(
        ({ peerId }) => peerId.startsWith(text) || peerId.startsWith(`${PEER_PREFIX}${text}`),
      )
}

/** One node with all that is known of it, and what runs there; undefined where that cannot be told. */
export function nodeShowLines(
  node: NodeView,
  jobs: readonly JobView[] | undefined,
  options: ViewOptions,
): string[] {
  const note = nodeNote(node, options)
  const { capacity, allocated } = node
  const of = (used: number, whole: number): string => `${formatSize(used)} of ${formatSize(whole)}`
  const facts: [string, string][] = [
    ['state', `${node.state}${note === '' ? '' : `: ${note}`}`],
    ['peer', node.peerId],
    ['parent', node.parent ?? 'none'],
    ['roles', node.roles.join(', ')],
    ['address', node.http ?? 'cannot be reached from outside'],
    ['version', [node.versions.mesh, ...node.versions.protocols].join('  ')],
    ['last seen', `${since(node.lastSeenAt, options)} ago`],
    ['cpus', `${allocated.cpus} of ${capacity.cpus} in use`],
    ...(node.policy === undefined
      ? []
      : [['policy', `${node.policy.name}, ${policyText(node.policy)}`] satisfies [string, string]]),
    ['memory', `${of(allocated.memoryBytes, capacity.memoryBytes)} in use`],
    ['disk', `${of(allocated.diskBytes, capacity.diskBytes)} in use`],
  ]
  if (node.speed !== undefined)
    facts.push(['speed', `${node.speed.toFixed(2)} of the reference machine`])
  return [
    printableLine(node.name),
    ...facts.map(([name, text]) => `  ${name.padEnd(11)}${printableLine(text)}`),
    ...environmentTexts(node.environments).map(
      (text) => `  ${'runs'.padEnd(11)}${printableLine(text)}`,
    ),
    ...(node.facts ?? []).map(
      ({ name, value, source, how }) =>
        `  ${'fact'.padEnd(11)}${printableLine(`${name} = ${value} (${source}: ${how})`)}`,
    ),
    '',
    ...runningLines(node, jobs, options),
  ]
}

function runningLines(
  { name, running }: NodeView,
  jobs: readonly JobView[] | undefined,
  options: ViewOptions,
): string[] {
  if (jobs === undefined)
    return [
      `${running === undefined ? 'what runs' : `${plural(running, 'job')} there; those`} on all nodes of this name: mesh jobs --node ${printableLine(name)} --state active`,
    ]
  if (jobs.length === 0) return ['nothing runs there']
  return [
    `${plural(jobs.length, 'job')} there:`,
    ...table(
      [
        { header: 'JOB', cell: ({ id }) => id },
        { header: 'STATE', cell: ({ state }) => state },
        {
          header: 'TIME',
          align: 'right',
          cell: (job) => attemptTime(job.attempts.at(-1), options),
        },
        { header: 'NAME', cell: ({ name: derivation }) => derivation },
      ],
      jobs,
      options,
    ),
  ]
}
