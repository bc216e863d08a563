/**
 * Job control of running builds: how soon more and fewer jobs take effect in make and ninja, how fairly two
 * builds share the tokens of a node, and what it costs a build that needs none of it.
 *
 * GNU make 4.4 and ninja 1.13 are measured where MESH_NEWER_TOOLS names them (scripts/newer-tools.sh).
 */
import { Builds } from '../test/build/builds.ts'
import {
  count,
  lastOver,
  NEWER_TOOLS,
  parallelWork,
  WorkEvents,
  type WorkTool,
} from '../test/build/parallel-work.ts'
import {
  breathe,
  compared,
  figure,
  median,
  timed,
  type Context,
  type Figures,
  type Subject,
} from './subject.ts'

const JOB_SECONDS = 0.2
const FEW = 2
const MANY = 8
const ROUNDS = 3
/** Jobs that must begin without more than FEW at once before that counts as reached. */
const SETTLED_JOBS = 10
const TRIVIAL_BUILDS = 30
/** A tool that never gets there is told as such. */
const PATIENCE_MS = 30_000

async function when(what: string, signal: AbortSignal, is: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  while (!is()) {
    signal.throwIfAborted()
    if (performance.now() > deadline) throw new Error(`never: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
    await breathe()
  }
}

/** Milliseconds until FEW jobs have become MANY, and MANY no more than FEW. */
async function latencies(builds: Builds, tool: WorkTool, { signal, log }: Context) {
  const { script, path, inputs } = parallelWork(tool, { jobs: 5000, seconds: JOB_SECONDS })
  const env = { PATH: path, HOME: '/build/home' }
  const { build, directory } = await builds.start(script, { jobs: FEW, inputs, env })
  const work = new WorkEvents(directory)
  const growMs: number[] = []
  const shrinkMs: number[] = []
  try {
    await when(`${tool} runs`, signal, () => work.started >= SETTLED_JOBS)
    for (let round = 0; round < ROUNDS; round++) {
      growMs.push(
        await timed(async () => {
          build.setJobs(MANY)
          await when(`${tool} runs ${MANY} at once`, signal, () => work.running === MANY)
        }),
      )
      const changes: { readonly atMs: number; readonly length: number }[] = []
      const startedMs = performance.now()
      build.setJobs(FEW)
      await when(`${tool} runs ${FEW} at once`, signal, () => {
        const events = work.read()
        changes.push({ atMs: performance.now() - startedMs, length: events.length })
        return count(events.slice(lastOver(events, FEW)), 's') >= SETTLED_JOBS
      })
      const settledAt = lastOver(work.read(), FEW)
      shrinkMs.push(changes.find(({ length }) => length >= settledAt)?.atMs ?? 0)
    }
  } finally {
    build.cancel()
    await build.outcome
  }
  log(`${tool}: grow ${median(growMs).toFixed(0)} ms, shrink ${median(shrinkMs).toFixed(0)} ms`)
  return { growMs: median(growMs), shrinkMs: median(shrinkMs) }
}

/** Jobs per second of two builds that both want all, and of one beside a build that wants nothing. */
async function fairness(builds: Builds, { signal }: Context) {
  const { script } = parallelWork('make', { jobs: 5000, seconds: 0.1 })
  const half = { jobs: MANY / 2, jobsMost: MANY }
  const pair = [await builds.start(script, half), await builds.start(script, half)]
  const works = pair.map(({ directory }) => new WorkEvents(directory))
  await when('both run', signal, () => works.every((work) => work.started >= 100))
  const [a = 1, b = 1] = works.map((work) => work.started)
  for (const { build } of pair) build.cancel()
  await Promise.all(pair.map(({ build }) => build.outcome))

  const idle = await builds.start('sleep 1000', half)
  const busy = await builds.start(script, half)
  const work = new WorkEvents(busy.directory)
  const lentMs = await timed(() =>
    when('it has the idle ones', signal, () => work.running >= MANY - 2),
  )
  for (const { build } of [idle, busy]) build.cancel()
  await Promise.all([idle.build.outcome, busy.build.outcome])
  return { share: Math.min(a, b) / Math.max(a, b), lentMs }
}

/** Of a build that does nothing, with job control and without, by turns. */
async function costs(builds: Builds) {
  const withMs: number[] = []
  const withoutMs: number[] = []
  for (let at = 0; at < TRIVIAL_BUILDS; at++) {
    withMs.push(await timed(() => builds.run(':', { jobs: 4 })))
    withoutMs.push(await timed(() => builds.run(':')))
  }
  return { withMs: median(withMs), withoutMs: median(withoutMs) }
}

export const subject: Subject = {
  name: 'jobs',
  async run(context) {
    await using builds = await Builds.open()
    const tools: WorkTool[] =
      NEWER_TOOLS === undefined ? ['make'] : ['make', 'newer make', 'newer ninja']
    let figures: Figures = {}
    for (const tool of tools) {
      const { growMs, shrinkMs } = await latencies(builds, tool, context)
      figures = {
        ...figures,
        [`${tool}: ${FEW} to ${MANY} jobs of ${JOB_SECONDS} s`]: figure(growMs, 'ms'),
        [`${tool}: ${MANY} to ${FEW} jobs of ${JOB_SECONDS} s`]: figure(
          shrinkMs,
          'ms',
          'polling for tokens: 4200-6000 ms',
        ),
      }
    }
    const { share, lentMs } = await fairness(builds, context)
    const { withMs, withoutMs } = await costs(builds)
    return {
      ...figures,
      'two builds that want all: jobs of the slower / of the faster': figure(share, ''),
      'idle tokens are in use elsewhere after': figure(lentMs, 'ms'),
      'trivial build with job control, peer without': compared(withMs, 'ms', withoutMs),
    }
  },
}
