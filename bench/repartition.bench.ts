/**
 * What it brings that a big job takes the processors of its machine that become free: a job that takes 40
 * minutes on all of a machine, beside 500 small ones, on four machines of eight processors.
 *
 * Beside it the same jobs where nothing was learnt of the wide one: then nothing tells that it is big, and it
 * has its least while anything waits. The bound is its time with a whole machine from the start.
 */
import { MalleableWorld } from '../test/scheduler/malleable-world.ts'
import { derivation } from '../test/scheduler/samples.ts'
import { Dice } from '../test/sim/dice.ts'
import { breathe, compared, type Figure, type Subject } from './subject.ts'

const MACHINES = 4
const CPUS = 8
const MINUTE_MS = 60_000
const WIDE_MINUTES = 40
const SMALL_COUNT = 500
const SEED = 1
const WITHIN_MS = 300 * MINUTE_MS

interface Ends {
  readonly wide: number
  readonly lastSmall: number
  readonly meanSmall: number
}

/** In minutes. `isShared`: the small ones are another user's. */
function endsOf(isKnown: boolean, isShared: boolean): Ends {
  const farm = new MalleableWorld()
  const dice = new Dice(SEED)
  for (let at = 0; at < MACHINES; at += 1) farm.world.node(`m${at}`, { cpus: CPUS })
  const wide = derivation('wide', { cpus: 1, cpusMax: CPUS })
  const cpuMs = WIDE_MINUTES * CPUS * MINUTE_MS
  farm.setWork(wide, cpuMs)
  if (isKnown) farm.teach(wide, cpuMs, CPUS)
  const small = Array.from({ length: SMALL_COUNT }, (_, at) => {
    const each = derivation(`small-${at}`)
    const ms = Math.round((0.5 + dice.fraction()) * MINUTE_MS)
    farm.setWork(each, ms)
    farm.teach(each, ms, 1)
    return each
  })
  const startMs = farm.world.nowMs
  if (isShared) {
    farm.world.submit('wide', [wide], { user: 'ann' })
    farm.world.submit('small', small, { user: 'bob' })
  } else farm.world.submit('all', [wide, ...small])
  if (!farm.run(['wide', ...small.map(({ name }) => name)], WITHIN_MS))
    throw new Error('the jobs do not end')
  const minutesOf = (name: string): number =>
    ((farm.endedAtMs.get(name) ?? WITHIN_MS) - startMs) / MINUTE_MS
  const ends = small.map(({ name }) => minutesOf(name))
  return {
    wide: minutesOf('wide'),
    lastSmall: Math.max(...ends),
    meanSmall: ends.reduce((sum, end) => sum + end, 0) / ends.length,
  }
}

export const subject: Subject = {
  name: 'repartition',
  async run({ log, signal }) {
    log(`seed ${SEED}; the peer is the same where nothing was learnt of the wide job`)
    const figures: Record<string, Figure> = {}
    for (const isShared of [false, true]) {
      await breathe()
      signal.throwIfAborted()
      const mesh = endsOf(true, isShared)
      const peer = endsOf(false, isShared)
      const whose = isShared ? 'two users' : 'one request'
      figures[`${whose}, end of the wide job (bound ${WIDE_MINUTES})`] = compared(
        mesh.wide,
        'min',
        peer.wide,
      )
      figures[`${whose}, end of the last small one`] = compared(
        mesh.lastSmall,
        'min',
        peer.lastSmall,
      )
      figures[`${whose}, mean end of the small ones`] = compared(
        mesh.meanSmall,
        'min',
        peer.meanSmall,
      )
    }
    return figures
  },
}
