/** What the user of a waiting job can do: each with the place in the graph file or the command. */
import { formatSize } from '../../base/units.ts'
import { WAIT_MS_DEFAULT, type Verdict, type WaitClass, type WhyGroup } from '../../wire/api.ts'
import type { Step } from '../model.ts'
import { listSome } from './words.ts'

export interface Fix {
  readonly text: string
  /** `kernel.mesh.toml:11`, or a command; empty for none. */
  readonly how: string
}

export interface FixContext {
  readonly step: Step
  readonly class: WaitClass | null
  /** All nodes. */
  readonly groups: readonly WhyGroup[]
  /** Nodes that match, and why they are not there. */
  readonly away: readonly { readonly name: string; readonly state: string }[]
  /** Where a new node may connect to. */
  readonly parent: string
  /** Others go before it. */
  readonly hasOthersAhead: boolean
}

export function fixesOf(context: FixContext): Fix[] {
  const { step, away } = context
  const names = (...states: readonly string[]): string[] =>
    away.filter(({ state }) => states.includes(state)).map(({ name }) => name)
  switch (context.class) {
    case 'unsatisfiable':
      return unsatisfiableFixes(context)
    case 'rebind':
      return [
        {
          text: 'bring back a node with the userland that the request began with, or start over',
          how: `mesh retry --rebind ${step.request.wire.id}`,
        },
      ]
    case 'away':
    case 'power':
      return awayFixes(names)
    case 'drain':
      return undrainFixes(names('draining', 'drained'))
    case 'quarantined':
      return undrainFixes(names('quarantined'))
    case 'held':
      return [{ text: 'let it go on', how: `mesh release ${releaseTarget(step)}` }]
    case 'unreachable':
      return [
        {
          text: 'start a node with role store that both can dial',
          how: 'mesh-node --role store --listen MULTIADDR --parent MULTIADDR',
        },
      ]
    case 'missing':
      return [
        {
          text: 'start the node that was seen with it, or submit again where the files are',
          how: '',
        },
      ]
    case 'inputs':
      return inputFixes(step)
    case 'busy':
    case 'faster':
    case 'reserved':
      return context.hasOthersAhead
        ? [{ text: 'let it go before others', how: `mesh boost ${step.id}` }]
        : []
    case 'votes':
    case 'version':
    case 'subtree':
    case 'refused':
      return [addMachine(context.parent)]
    case 'share':
    case 'locality':
    case 'lookup':
    case 'recovery':
    case 'retry':
    case 'other':
    case null:
      return []
  }
}

/** The requirements whose change would make a node match, the fewest first. */
function unsatisfiableFixes({ step, groups, parent }: FixContext): Fix[] {
  const fixes: Fix[] = []
  const lacking = groups
    .map(({ verdicts }) => verdicts.filter(({ ok, permanent }) => !ok && permanent))
    .filter((verdicts) => verdicts.length > 0)
  const crossable = new Set<string>()
  for (const verdicts of lacking)
    for (const { cross } of verdicts)
      if (cross !== undefined && step.derivation.hosts.length === 0) crossable.add(cross)
  // A node of another system needs other inputs: that is a change of its own, not one value less.
  const alike = lacking.filter(
    (verdicts) => !verdicts.some(({ requirement }) => requirement === 'system'),
  )
  const fewest = Math.min(...alike.map((verdicts) => verdicts.length))
  const chosen = alike.filter((verdicts) => verdicts.length === fewest)
  const done = new Set<string>()
  for (const verdicts of chosen)
    for (const verdict of verdicts) {
      if (done.has(verdict.requirement)) continue
      done.add(verdict.requirement)
      const most = Math.max(
        0,
        ...chosen.flatMap((others) =>
          others.flatMap(({ requirement, total = 0 }) =>
            requirement === verdict.requirement ? [total] : [],
          ),
        ),
      )
      const fix = relaxed(step, verdict, most)
      if (fix !== undefined) fixes.push(fix)
    }
  for (const system of [...crossable].slice(0, 2))
    fixes.push({
      text: `add a cross toolchain for ${system.split('-')[0] ?? system} hosts`,
      how: 'mesh explain cross',
    })
  fixes.push(addMachine(parent))
  return fixes
}

/** How the derivation may ask for no more than there is. */
function relaxed(step: Step, verdict: Verdict, most: number): Fix | undefined {
  const { requirement } = verdict
  switch (requirement) {
    case 'memory':
    case 'disk':
      return most === 0
        ? undefined
        : {
            text: `lower needs.${requirement} to ${formatSize(most)} or less`,
            how: placeOf(step, requirement),
          }
    case 'cpus':
      return most === 0
        ? undefined
        : { text: `lower needs.cpus to ${most} or less`, how: placeOf(step, 'cpus') }
    case 'isolation':
      // Without its image it would be another job.
      if (verdict.want.includes('image')) return undefined
      return {
        text: 'set sealed = false, if a build without walls will do',
        how: placeOf(step, 'sealed'),
      }
    default:
      return requirement.startsWith('feature ')
        ? {
            text: `do without needs.features "${requirement.slice('feature '.length)}"`,
            how: placeOf(step, 'features'),
          }
        : undefined
  }
}

/** `file:line` of what asks for it, else of the derivation. */
function placeOf(step: Step, what: keyof NonNullable<Step['derivation']['lines']>): string {
  const { where = '', lines } = step.derivation
  const file = where.replace(/:\d+:\d+$/, '')
  const line = lines?.[what] ?? /:(\d+):\d+$/.exec(where)?.[1]
  return line === undefined ? where : `${file}:${line}`
}

const addMachine = (parent: string): Fix => ({
  text: 'add a machine:',
  how: `mesh-node --role worker --parent ${parent}`,
})

function awayFixes(names: (...states: readonly string[]) => string[]): Fix[] {
  const full = names('full')
  const off = names('lost', 'sleeping', 'broken', 'waking')
  const drained = names('draining', 'drained')
  const quarantined = names('quarantined')
  return [
    ...(off.length > 0
      ? [{ text: `start ${off.length === 1 ? '' : 'one of '}${listSome(off)}`, how: '' }]
      : []),
    ...(full.length > 0 ? [{ text: `make room on ${listSome(full)}`, how: 'mesh gc' }] : []),
    ...undrainFixes([...drained, ...quarantined]),
  ]
}

const undrainFixes = (names: readonly string[]): Fix[] =>
  names.slice(0, 1).map((name) => ({
    text: names.length === 1 ? `let ${name} take jobs again` : 'let one of them take jobs again',
    how: `mesh undrain ${name}`,
  }))

const releaseTarget = (step: Step): string =>
  step.hold === undefined ? step.request.wire.id : step.id

/** The first input that itself waits, or failed to start: the reason is there. */
function inputFixes(step: Step): Fix[] {
  const open = step.dependencies.find(({ phase }) => phase === 'open' || phase === 'blocked')
  return open === undefined
    ? []
    : [{ text: `see what ${open.derivation.name} waits for`, how: `mesh why ${open.id}` }]
}

/** One line of it. */
export const fixText = ({ text, how }: Fix): string =>
  how === '' ? text : `${text.replace(/:$/, '')}: ${how}`

/** When the job fails by itself; undefined where nothing counts. */
export function waitLimitOf(step: Step): number {
  return step.request.wire.waitLimitMs ?? WAIT_MS_DEFAULT
}
