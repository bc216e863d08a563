/**
 * What a root hears and says per second while all machines below it build jobs of a minute, in trees of
 * height 2 (all machines are its children), 3 and 4. Schedulers and messages are those of production, time
 * is virtual; bytes are those of the encoded messages, before encryption.
 */
import { NodeTree } from './farm/node-tree.ts'
import { breathe, figure, type Context, type Figure, type Subject } from './subject.ts'

const LEAVES: Readonly<Record<Context['scale'], number>> = { quick: 1_000, long: 10_000 }
/** Until every machine has work. */
const SETTLE_MS = 40_000
const MEASURE_MS = 20_000
/** Jobs of one request. */
const BATCH = 10_000
const SEED = 1

/** About as many children at every level. */
function fanoutsOf(leaves: number, height: number): number[] {
  const fanouts: number[] = []
  let left = leaves
  for (let levels = height - 1; levels > 0; levels--) {
    const fanout = Math.round(left ** (1 / levels))
    fanouts.push(fanout)
    left = Math.ceil(left / fanout)
  }
  return fanouts
}

export const subject: Subject = {
  name: 'tree',
  async run({ log, scale, signal }) {
    const figures: Record<string, Figure> = {}
    for (const height of [2, 3, 4]) {
      await breathe()
      signal.throwIfAborted()
      const fanouts = fanoutsOf(LEAVES[scale], height)
      const startedAt = performance.now()
      const tree = new NodeTree({ fanouts, seed: SEED })
      // More than all of them can take until the end.
      const jobs = 3 * tree.leafCount
      for (let from = 0; from < jobs; from += BATCH)
        tree.submit(`request ${from}`, Math.min(BATCH, jobs - from))
      tree.run(SETTLE_MS)
      tree.resetTraffic()
      tree.run(MEASURE_MS)
      const seconds = MEASURE_MS / 1_000
      const name = `height ${height}, ${fanouts.join(' x ')}`
      const ended = tree.finishedCount / seconds
      log(
        `${name}: ${tree.leafCount} machines, ${ended.toFixed(1)} jobs/s ended, ${((performance.now() - startedAt) / 1000).toFixed(1)} s`,
      )
      figures[`${name}, jobs ended`] = figure(ended, '/s')
      for (const direction of ['in', 'out'] as const) {
        const { messages, bytes } = tree.traffic[direction]
        log(`${name}: ${direction} ${messages / seconds} messages/s, ${bytes / seconds} bytes/s`)
        figures[`${name}, messages ${direction}`] = figure(messages / seconds, '/s')
        figures[`${name}, bytes ${direction}`] = figure(bytes / seconds / 1_000, 'kB/s')
      }
      figures[`${name}, the root's scheduler`] = figure(
        (100 * tree.rootMs) / MEASURE_MS,
        '% of a processor',
      )
    }
    return figures
  },
}
