/** What goes wrong in a simulated tree. */
import type { Machine } from './machine.ts'
import type { TreeSimulation } from './tree-simulation.ts'

/** What is drained in a simulation. */
export const DRAINED = 'n1*'

/** Short enough for everybody to find each other again before anything is given up. */
const GENTLE_AWAY_MS = 2_500

/** One thing goes wrong that must not cost a build: nobody who builds is lost, and nobody is away for long. */
export function gentleTrouble(sim: TreeSimulation): void {
  const { dice, network } = sim
  const inner = dice.pick(sim.machines.filter(({ spec }) => spec.builds === undefined))
  dice.pick([
    () => restart(sim, inner, dice.between(100, GENTLE_AWAY_MS)),
    () => network.breakOne(),
    () => jumpClock(sim, dice.pick(sim.machines)),
  ])()
}

export function trouble(sim: TreeSimulation): void {
  const { dice, network } = sim
  const machine = dice.pick(sim.machines)
  const other = dice.pick(sim.machines)
  dice.pick([
    () => restart(sim, machine, dice.between(100, 25_000)),
    () => restart(sim, machine, dice.between(100, 3_000)),
    () => restart(sim, dice.pick(sim.machines.slice(0, 3)), dice.between(100, 40_000)),
    () => network.breakOne(),
    () => network.breakOne(),
    () => jumpClock(sim, machine),
    () => cut(sim, machine, other, dice.between(500, 45_000), dice.chance(0.5)),
    () => isolate(sim, dice.between(1_000, 50_000)),
    () => loseDisk(sim, machine),
    () => {
      machine.isDraining = !machine.isDraining
    },
    () => {
      const cpus = machine.spec.builds?.cpus ?? 0
      if (cpus > 0) machine.cpus = dice.between(1, cpus)
    },
    () => drain(sim, machine),
  ])()
}

function restart(sim: TreeSimulation, machine: Machine, awayMs: number): void {
  if (machine.process === undefined) return
  sim.kill(machine)
  sim.clock.setTimer(awayMs, () => sim.start(machine))
}

/** An hour forwards or backwards: nothing may hang on it. */
function jumpClock(sim: TreeSimulation, machine: Machine): void {
  sim.trace(() => `clock of ${machine.name} jumps`)
  machine.wallSkewMs += sim.dice.pick([-3_600_000, 3_600_000])
}

function cut(sim: TreeSimulation, a: Machine, b: Machine, ms: number, isBoth: boolean): void {
  const { network, clock } = sim
  if (a === b) return
  sim.trace(() => `cut ${a.name} ${isBoth ? 'and' : 'to'} ${b.name}`)
  network.cut(a, b)
  if (isBoth) network.cut(b, a)
  clock.setTimer(ms, () => {
    network.heal(a, b)
    network.heal(b, a)
  })
}

/** Some of the machines are cut off from the others, as a branch office is. */
function isolate(sim: TreeSimulation, ms: number): void {
  const { dice, clock, network, machines } = sim
  const inside = machines.filter(() => dice.chance(0.4))
  sim.trace(() => `isolate ${inside.map(({ name }) => name).join()}`)
  const pairs: [Machine, Machine][] = []
  for (const a of inside)
    for (const b of machines) if (!inside.includes(b)) pairs.push([a, b], [b, a])
  for (const [a, b] of pairs) network.cut(a, b)
  clock.setTimer(ms, () => {
    for (const [a, b] of pairs) network.heal(a, b)
  })
}

/** It comes back as another node: who it was is lost with the disk. */
function loseDisk(sim: TreeSimulation, machine: Machine): void {
  if (machine.process === undefined || !sim.dice.chance(0.5)) return
  const { requests } = machine.process.driver.scheduler.state
  const known = new Set([...requests.keys(), ...machine.disk.outbox.keys()])
  sim.kill(machine)
  sim.trace(() => `${machine.name} loses its disk`)
  machine.loseDisk()
  sim.forgot(machine, (id) => known.has(id))
  sim.clock.setTimer(sim.dice.between(1_000, 20_000), () => sim.start(machine))
}

function drain(sim: TreeSimulation, machine: Machine): void {
  const { dice, clock } = sim
  const { process } = machine
  const deadlineMs = dice.chance(0.5) ? dice.between(1_000, 20_000) : null
  const order = { selector: DRAINED, reason: 'to see', deadlineMs }
  process?.driver.apply({ type: 'lever', lever: { kind: 'drain', order }, by: 'test' })
  clock.setTimer(dice.between(2_000, 20_000), () =>
    machine.process?.driver.apply({
      type: 'lever',
      lever: { kind: 'undrain', selector: DRAINED },
      by: 'test',
    }),
  )
}
