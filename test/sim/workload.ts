/** Random machines, graphs and requests. What differs between two requests is what differs in practice: a changed source, other needs, other limits. */
import type { Derivation } from '../../src/wire/derivation.ts'
import type { Environment } from '../../src/wire/environment.ts'
import type { RequestWire } from '../../src/wire/facts.ts'
import {
  derivation,
  environment,
  GIB,
  requestWire,
  type EnvironmentOptions,
} from '../scheduler/samples.ts'
import type { Dice } from './dice.ts'
import type { Behaviour, Machine } from './sim-worker.ts'

const PROFILES: readonly EnvironmentOptions[] = [
  { base: 'a', tools: { flex: '1', m4: '1' } },
  { base: 'a', tools: { flex: '2', m4: '1' } },
  { base: 'b', tools: { flex: '1', m4: null } },
]
const CPUS_MAX = 4
const MEMORY_MAX = 16 * GIB
/** What no machine has. */
const MEMORY_IMPOSSIBLE = 900 * GIB

/**
 * Each userland has one machine that is large enough for everything. In a calm mesh they differ in their
 * base alone: else two requests may build one job twice, when one tool that it does not use parts them.
 */
export function makeMachines(dice: Dice, count: number, isCalm: boolean): Machine[] {
  const profiles = isCalm ? PROFILES.filter(({ tools }) => tools?.['flex'] === '1') : PROFILES
  return Array.from({ length: count }, (_, at) => {
    const isLarge = at < profiles.length
    const profile = isLarge ? profiles[at] : dice.pick(profiles)
    return {
      name: `n${at}`,
      cpus: isLarge ? CPUS_MAX : dice.between(1, CPUS_MAX),
      memoryBytes: isLarge ? MEMORY_MAX : dice.between(2, 8) * GIB,
      environment: environment(profile),
      // The first is a store that all can dial: without it some would never get what they need.
      isStore: at === 0 || dice.chance(0.4),
      isOpen: at === 0 || dice.chance(0.7),
      saysOpen: at === 0 || dice.chance(0.9),
    }
  })
}

/** Machines of one userland, each large enough for everything: any of them may be asked to build the same. */
export function makeEqualMachines(dice: Dice, count: number): Machine[] {
  return makeMachines(dice, count, false).map((machine) => ({
    ...machine,
    cpus: CPUS_MAX,
    memoryBytes: MEMORY_MAX,
    environment: environment(PROFILES[0]),
  }))
}

/** What a machine may be changed to; one of those that will be there in the end. */
export function otherEnvironment(dice: Dice, machineCount: number): Environment {
  return environment(dice.pick(PROFILES.slice(0, machineCount)))
}

export interface Plan {
  readonly wire: RequestWire
  readonly atMs: number
  readonly cancelAtMs: number | undefined
  /** Asks for what no machine has. */
  readonly isImpossible: boolean
}

interface Template {
  readonly name: string
  readonly after: readonly string[]
  readonly behaviour: Behaviour
  readonly tools: readonly string[]
  readonly cpus: number
  readonly cpusMax: number
  readonly isFetch: boolean
}

export interface WorkloadOptions {
  readonly requestCount: number
  readonly fromMs: number
  readonly toMs: number
  /** Without cancels and failures. */
  readonly isCalm: boolean
  /** Many derivations are to be built by several nodes. */
  readonly isCompared?: boolean
}

export function makePlans(dice: Dice, options: WorkloadOptions): Plan[] {
  const templates = makeTemplates(dice, options.isCalm)
  return Array.from({ length: options.requestCount }, (_, at) => {
    const wanted = new Set([dice.pick(templates).name, dice.pick(templates.slice(-6)).name])
    const needed = new Set(wanted)
    for (const template of templates.toReversed())
      if (needed.has(template.name)) for (const name of template.after) needed.add(name)
    const members = templates.filter(({ name }) => needed.has(name))
    const changed = dice.chance(0.6) ? dice.pick(members).name : undefined
    const isImpossible = dice.chance(0.06)
    const impossible = isImpossible ? dice.pick(members).name : undefined
    const graph = members.map((template) =>
      makeDerivation(
        dice,
        template,
        template.name === changed ? dice.between(1, 3) : 0,
        template.name === impossible,
        options.isCompared === true && dice.chance(0.4) ? dice.pick([2, 2, 3]) : 1,
      ),
    )
    const atMs = dice.between(options.fromMs, options.toMs)
    return {
      atMs,
      isImpossible,
      cancelAtMs:
        !options.isCalm && dice.chance(0.15) ? atMs + dice.between(10, 15_000) : undefined,
      wire: requestWire(`request-${at}`, graph, {
        wanted: [...wanted],
        // In a calm mesh nothing is given up half-way.
        keepGoing: options.isCalm || dice.chance(0.4),
        noWait: isImpossible ? options.isCalm || dice.chance(0.7) : dice.chance(0.1),
        priority: dice.pick([50, 50, 50, 80]),
        takesCopy: dice.chance(0.4),
      }),
    }
  })
}

function makeTemplates(dice: Dice, isCalm: boolean): Template[] {
  const templates: Template[] = []
  for (let at = 0; at < 14; at += 1) {
    const after = new Set<string>()
    for (let count = dice.between(0, Math.min(at, 3)); count > 0; count -= 1)
      after.add(dice.pick(templates).name)
    const isFetch = after.size === 0 && dice.chance(0.2)
    const odd: readonly Behaviour[] = isCalm
      ? ['ok', 'constant']
      : ['random', 'fail', 'broken', 'slow', 'random', 'broken']
    const cpus = dice.chance(0.2) ? dice.between(2, CPUS_MAX) : 1
    templates.push({
      name: `d${at}`,
      after: [...after],
      behaviour: isFetch
        ? 'ok'
        : dice.chance(0.75)
          ? dice.pick(['ok', 'ok', 'ok', 'constant'])
          : dice.pick(odd),
      tools: isFetch ? [] : dice.pick([[], [], [], ['flex'], ['m4'], ['flex', 'm4']]),
      cpus,
      cpusMax: dice.between(cpus, CPUS_MAX),
      isFetch,
    })
  }
  return templates
}

function makeDerivation(
  dice: Dice,
  template: Template,
  revision: number,
  isImpossible: boolean,
  verify: number,
): Derivation {
  const { name, after, behaviour, tools, cpus, cpusMax, isFetch } = template
  return derivation(name, {
    after,
    // The arguments are part of the key: what is built, how it behaves, and which revision of its source.
    args: [name, behaviour, String(revision)],
    tools,
    cpus,
    cpusMax,
    memoryBytes: isImpossible ? MEMORY_IMPOSSIBLE : dice.pick([0, 0, 1, 2, 8]) * GIB,
    ...(isFetch ? { urls: [`https://example.org/${name}`] } : { sources: [`source of ${name}`] }),
    run: {
      ...(behaviour === 'slow' ? { timeoutMs: dice.pick([4_000, 20_000]) } : {}),
      ...(verify > 1 ? { verify } : {}),
    },
  })
}
