/**
 * What a decision of the scheduler costs as nodes and waiting jobs grow: production code in memory, with
 * neither journal nor network.
 *
 * A decision is a message of a node that ends an attempt and gets another: it takes in the result, pins
 * it, chooses the next job and makes its grant. The ratio is to the smallest size: flat is 1. Each size
 * has a budget; what it did not reach is left out or said.
 */
import { Dice } from '../test/sim/dice.ts'
import { QueueWorld } from './farm/queue-world.ts'
import {
  breathe,
  figure,
  median,
  quantile,
  type Context,
  type Figure,
  type Subject,
} from './subject.ts'

interface Size {
  readonly nodes: number
  readonly queued: number
}

const SIZES: Readonly<Record<Context['scale'], readonly Size[]>> = {
  quick: [
    { nodes: 100, queued: 1_000 },
    { nodes: 1_000, queued: 1_000 },
    { nodes: 10_000, queued: 1_000 },
    { nodes: 100, queued: 50_000 },
    { nodes: 10_000, queued: 50_000 },
  ],
  long: [1_000, 100_000, 500_000].flatMap((queued) =>
    [100, 1_000, 10_000].map((nodes) => ({ nodes, queued })),
  ),
}
/** For filling the queue, for connecting the nodes, for giving them work, and for what is measured. */
const FILL_MS = { quick: 10_000, long: 240_000 }
const CONNECT_MS = { quick: 4_000, long: 60_000 }
const OCCUPY_MS = { quick: 4_000, long: 60_000 }
const ENQUEUE_MS = 1_000
const MEASURE_MS = { quick: 2_000, long: 10_000 }
const WARM_UP = 300
const DECISIONS_MAX = 20_000
const SEED = 1

const ENQUEUES = 2_000

interface Outcome {
  readonly queued: number
  readonly nodes: number
  /** Nodes that were given work. */
  readonly occupied: number
  readonly decisionsUs: readonly number[]
  /** Of processor time. */
  readonly perSecond: number
  readonly tellUs: number
  /** Of the messages of nodes that ended something: those after which the node was left with less to do. */
  readonly emptyShare: number
  readonly enqueuesUs: readonly number[]
  readonly sweepUs: number
}

function measure({ nodes, queued }: Size, scale: Context['scale']): Outcome {
  const world = new QueueWorld(new Dice(SEED))
  world.fill(queued, FILL_MS[scale])
  const connected = world.addNodes(nodes, CONNECT_MS[scale])
  const occupyUntilMs = performance.now() + OCCUPY_MS[scale]
  let occupied = 0
  while (occupied < connected && performance.now() < occupyUntilMs) {
    world.open(occupied)
    occupied += 1
    if (world.queuedCount < queued / 2) world.fill(queued, OCCUPY_MS[scale])
  }
  const enqueuesUs = world.fill(Math.max(queued, world.queuedCount + ENQUEUES), ENQUEUE_MS)
  const reached = world.queuedCount
  const warmUntilMs = performance.now() + MEASURE_MS[scale]
  for (let at = 0; at < WARM_UP && performance.now() < warmUntilMs; at++) {
    world.turn()
    world.passTime()
  }
  const decisionsUs: number[] = []
  const tellsUs: number[] = []
  let grants = 0
  let spentUs = 0
  let emptyCount = 0
  const untilMs = performance.now() + MEASURE_MS[scale]
  while (performance.now() < untilMs && decisionsUs.length < DECISIONS_MAX) {
    if (world.queuedCount < reached * 0.9) world.fill(reached, ENQUEUE_MS)
    const before = world.processorUs
    const turn = world.turn()
    spentUs += world.processorUs - before
    grants += turn.grants
    if (turn.grants === 0) emptyCount += 1
    else {
      decisionsUs.push(turn.applyUs)
      tellsUs.push(turn.desiredUs)
    }
    world.passTime()
  }
  return {
    queued: reached,
    nodes: connected,
    occupied,
    decisionsUs,
    perSecond: grants / (spentUs / 1e6),
    tellUs: tellsUs.length === 0 ? 0 : median(tellsUs),
    emptyShare: emptyCount / Math.max(1, emptyCount + decisionsUs.length),
    enqueuesUs,
    sweepUs: world.sweep(),
  }
}

export const subject: Subject = {
  name: 'dispatch',
  async run({ log, scale, signal }) {
    log(`seed ${SEED}`)
    const figures: Record<string, Figure> = {}
    let smallest: Outcome | undefined
    // Cold code would make the smallest size the slowest.
    measure({ nodes: 100, queued: 1_000 }, scale)
    for (const size of SIZES[scale]) {
      await breathe()
      signal.throwIfAborted()
      const outcome = measure(size, scale)
      if (outcome.decisionsUs.length === 0) {
        log(`${size.nodes} nodes, ${size.queued} queued: no decision within the budget`)
        continue
      }
      smallest ??= outcome
      const name = `${size.nodes} nodes, ${size.queued} queued`
      const { decisionsUs, enqueuesUs } = outcome
      log(
        `${name}: ${decisionsUs.length} decisions, ${outcome.occupied} nodes had work, ${outcome.queued} were queued`,
      )
      const note = [
        outcome.queued < size.queued ? `only ${outcome.queued} queued in time` : '',
        outcome.nodes < size.nodes ? `only ${outcome.nodes} nodes connected in time` : '',
        outcome.occupied < outcome.nodes ? `only ${outcome.occupied} had work in time` : '',
      ]
        .filter((text) => text !== '')
        .join('; ')
      const against = (value: number, base: number, unit: string): Figure => ({
        ...figure(value, unit, note === '' ? undefined : note),
        ratio: Number((value / base).toPrecision(3)),
      })
      figures[`${name}, decisions`] = against(outcome.perSecond, smallest.perSecond, '/s')
      figures[`${name}, a decision`] = against(
        median(decisionsUs),
        median(smallest.decisionsUs),
        'us',
      )
      figures[`${name}, a decision, p99`] = against(
        quantile(decisionsUs, 0.99),
        quantile(smallest.decisionsUs, 0.99),
        'us',
      )
      figures[`${name}, telling the node`] = against(outcome.tellUs, smallest.tellUs, 'us')
      figures[`${name}, nodes left idle`] = figure(100 * outcome.emptyShare, '% of messages')
      figures[`${name}, the sweep every 5 s`] = against(
        outcome.sweepUs / 1_000,
        smallest.sweepUs / 1_000,
        'ms',
      )
      figures[`${name}, enqueue, p99`] = against(
        quantile(enqueuesUs, 0.99),
        quantile(smallest.enqueuesUs, 0.99),
        'us',
      )
    }
    return figures
  },
}
