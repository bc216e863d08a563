/** Trees, rings and farms to simulate, drawn from a seed. */
import type { Dice } from '../dice.ts'
import { makeMachines } from '../workload.ts'
import { environment, GIB } from '../../scheduler/samples.ts'
import type { MachineSpec } from './machine.ts'

/** `flat`: a root and its workers. `tree`: height 2 to 4, some nodes with several parents. `ring`: nodes that are each other's parents, with workers below. */
export const SHAPES = ['flat', 'tree', 'ring'] as const
export type Shape = (typeof SHAPES)[number]

export interface TopologyOptions {
  readonly shape: Shape
  /** Nodes that build; those between come on top. */
  readonly workerCount: number
  /** Nothing is lost in this run: who passes on builds nothing, since it may be restarted. */
  readonly isGentle: boolean
  /** With some that lie. */
  readonly hasLiars: boolean
  readonly isCalm: boolean
}

export function makeTopology(dice: Dice, options: TopologyOptions): MachineSpec[] {
  switch (options.shape) {
    case 'flat':
      return [inner('root', [], dice, options), ...workers(dice, options, ['root'])]
    case 'tree':
      return makeTree(dice, options)
    case 'ring':
      return makeRing(dice, options)
  }
}

/** Levels of middle nodes below the root, the workers below them; the root may have some of its own. */
function makeTree(dice: Dice, options: TopologyOptions): MachineSpec[] {
  const specs = [inner('root', [], dice, options)]
  const height = dice.between(2, 4)
  let above = ['root']
  const all = ['root']
  for (let level = 1; level < height; level += 1) {
    const names: string[] = []
    for (let count = dice.between(1, 3); count > 0; count -= 1) {
      const name = `m${level}-${count}`
      names.push(name)
      specs.push(inner(name, parentsOf(dice, above, all), dice, options))
    }
    all.push(...names)
    above = names
  }
  return [...specs, ...workers(dice, options, above, all)]
}

/** Every node of the ring has the next one, and some of the others, as parents: nobody is the root by its settings. */
function makeRing(dice: Dice, options: TopologyOptions): MachineSpec[] {
  const names = Array.from({ length: dice.between(2, 4) }, (_, at) => `ring-${at}`)
  const specs = names.map((name, at) => {
    const next = names[(at + 1) % names.length] ?? name
    const others = names.filter((other) => other !== name && other !== next)
    return inner(name, [next, ...others.filter(() => dice.chance(0.5))], dice, options)
  })
  return [...specs, ...workers(dice, options, names)]
}

/** One of the level above, and sometimes others to turn to. */
function parentsOf(dice: Dice, above: readonly string[], all: readonly string[]): string[] {
  const parents = new Set([dice.pick(above)])
  if (dice.chance(0.4)) parents.add(dice.pick(above))
  if (dice.chance(0.3)) parents.add(dice.pick(all))
  return [...parents]
}

function inner(
  name: string,
  parents: readonly string[],
  dice: Dice,
  { isGentle }: TopologyOptions,
): MachineSpec {
  const builds = !isGentle && dice.chance(0.3)
  const [machine] = makeMachines(dice, 1, true)
  return {
    name,
    parents,
    isStore: true,
    isDialable: true,
    builds:
      builds && machine !== undefined
        ? {
            cpus: machine.cpus,
            memoryBytes: machine.memoryBytes,
            environment: machine.environment,
            slowness: 1,
            isLiar: false,
          }
        : undefined,
  }
}

function workers(
  dice: Dice,
  { workerCount, hasLiars, isCalm }: TopologyOptions,
  above: readonly string[],
  all: readonly string[] = above,
): MachineSpec[] {
  return makeMachines(dice, workerCount, isCalm).map((machine, at) => ({
    name: machine.name,
    // Every middle has somebody below it, as far as there are enough.
    parents: [
      ...new Set([above[at % above.length] ?? 'root', ...parentsOf(dice, above, all).slice(1)]),
    ],
    isStore: machine.isStore,
    isDialable: machine.isOpen,
    builds: {
      cpus: machine.cpus,
      memoryBytes: machine.memoryBytes,
      environment: machine.environment,
      slowness: dice.chance(0.2) ? 4 : 1,
      // The first ones have what all requests need: they are honest.
      isLiar: hasLiars && at >= 3 && dice.chance(0.3),
    },
  }))
}

/** A farm of `count` equal builders below middles of at most `fanOut` children each, `height` levels below the root. */
export function makeFarm(count: number, height: number): MachineSpec[] {
  const specs: MachineSpec[] = [farmNode('root', undefined, false)]
  const fanOut = Math.max(2, Math.ceil(count ** (1 / height)))
  let above = ['root']
  for (let level = 1; level < height; level += 1) {
    const width = Math.ceil(count / fanOut ** (height - level))
    const names = Array.from({ length: width }, (_, at) => `m${level}-${at}`)
    for (const [at, name] of names.entries())
      specs.push(farmNode(name, above[Math.floor((at * above.length) / width)], false))
    above = names
  }
  for (let at = 0; at < count; at += 1)
    specs.push(farmNode(`w${at}`, above[Math.floor((at * above.length) / count)], true))
  return specs
}

function farmNode(name: string, parent: string | undefined, isBuilder: boolean): MachineSpec {
  return {
    name,
    parents: parent === undefined ? [] : [parent],
    isStore: !isBuilder,
    isDialable: true,
    builds: isBuilder
      ? {
          cpus: 4,
          memoryBytes: 16 * GIB,
          environment: environment({ base: 'a', tools: { flex: '1', m4: '1' } }),
          slowness: 1,
          isLiar: false,
        }
      : undefined,
  }
}
