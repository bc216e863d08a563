/**
 * The executor process: spawns, limits and kills builds for its daemon, and ends them all when the pipe
 * to the daemon closes.
 *
 * A process of its own because spawning from one of 150 MiB takes twice as long, and because it outlives
 * a daemon that is killed just long enough to leave nothing running. It imports as little as it can.
 */
import { MessageChannel } from 'node:worker_threads'
import { systemClock } from '../base/clock.ts'
import { messageOf } from '../base/errors.ts'
import { systemRandom } from '../base/random.ts'
import { parseWith } from '../wire/cbor.ts'
import {
  decodeOrder,
  encodeLine,
  ExecutorOptions,
  LineDecoder,
  type BuildOutcome,
  type Controls,
  type Report,
} from './executor-protocol.ts'
import { openGroups, type ExecutorGroups } from './groups/executor-groups.ts'
import { CONTROLS, type Control } from './groups/group-places.ts'
import { endAllOrphans } from './orphans.ts'
import { BuildJobs } from './jobs/build-jobs.ts'
import { trialRunner } from './jobs/run-trial.ts'
import { PipePool } from './pipe-pool.ts'
import { RunningBuild, type BuildDeps } from './running-build.ts'
import { readHostLayout } from './sandbox-layout.ts'
import { probeSandbox, removeStale, sandboxDirectory } from './sandbox.ts'

/** Growth of logs is told at most this often for one build. */
const LOG_REPORT_MS = 20

// Timers do not keep a process alive, and it may have nothing else while it waits for one.
const { port1: alive } = new MessageChannel()
alive.ref()
const clock = systemClock()
const options = parseWith(ExecutorOptions, JSON.parse(process.argv[2] ?? ''), 'options')
// Builds of an executor that was killed, be it together with its daemon.
await endAllOrphans(clock, options.directory)
const groups = openGroups(options.directory)
await groups.endLeft(clock)
await removeStale(options.directory)
const sandbox = await probeSandbox({ clock }, options)
const directory = sandboxDirectory(options.directory)
const layout = await readHostLayout(directory)
await using pipes = await PipePool.open(directory, layout)
const jobs = new BuildJobs({
  clock,
  random: systemRandom(),
  pipes,
  owner: layout,
  runTrial: trialRunner({ clock, pipes, sandbox, layout }, directory),
  onError: (error) => process.stderr.write(`executor: ${messageOf(error)}\n`),
})
tell({ type: 'ready', sandbox, controls: controlsOf(groups) })
await serve({ clock, pipes, sandbox, layout, groups, jobs, dataDirectory: options.directory })
await jobs[Symbol.asyncDispose]()
groups.close()
alive.close()

function controlsOf({ places }: ExecutorGroups): Controls {
  const of: Partial<Record<Control, 1 | 2>> = {}
  for (const control of CONTROLS) {
    const place = places.of[control]
    if (place !== undefined) of[control] = place.version
  }
  const isLimited = of.memory !== undefined && of.processes !== undefined
  const isSomebodyElse = layout.uid !== process.geteuid?.()
  const isSecure = sandbox.isFiltered === true && isSomebodyElse && isLimited
  return { of, reasons: places.reasons, isSecure }
}

/** Until the daemon closes its end; then until all builds are dead. */
async function serve(deps: BuildDeps): Promise<void> {
  const builds = new Map<string, RunningBuild>()
  const lines = new LineDecoder()
  process.stdout.on('error', () => {
    // Nobody reads any more: the end of stdin follows, and that is where the builds are killed.
  })
  process.stdin.setEncoding('utf8')
  try {
    for await (const piece of process.stdin) {
      for (const line of lines.push(String(piece))) handle(deps, builds, line)
    }
  } catch (error) {
    process.stderr.write(`executor: ${messageOf(error)}\n`)
    process.exitCode = 70
  }
  for (const build of builds.values()) build.cancel()
  await Promise.all([...builds.values()].map((build) => build.outcome))
}

function handle(deps: BuildDeps, builds: Map<string, RunningBuild>, line: string): void {
  const order = decodeOrder(line)
  switch (order.type) {
    case 'cancel':
      builds.get(order.attempt)?.cancel()
      return
    case 'limits':
      builds.get(order.attempt)?.setLimits(order.limits)
      return
    case 'jobs':
      builds.get(order.attempt)?.setJobs(order.jobs, order.isHard)
      return
    case 'freeze':
      builds.get(order.attempt)?.freeze(order.isFrozen)
      return
    case 'start': {
      const { attempt, isolation } = order.spec
      const refusal =
        isolation !== 'host' && deps.sandbox.method === 'none'
          ? `no sandbox on this machine: ${deps.sandbox.reasons.join('; ')}`
          : isolation === 'image' && deps.sandbox.method !== 'helper'
            ? `no images with the sandbox ${deps.sandbox.method}: ${deps.sandbox.reasons.join('; ')}`
            : undefined
      if (refusal !== undefined) {
        tellEnd(attempt, {
          end: { kind: 'infrastructure', message: refusal },
          usage: { wallMs: 0, cpuMs: 0, maxRssBytes: 0 },
          logBytes: 0,
        })
        return
      }
      const build = new RunningBuild(deps, order.spec, growthReporter(attempt))
      builds.set(attempt, build)
      void finish(builds, attempt, build)
    }
  }
}

async function finish(
  builds: Map<string, RunningBuild>,
  attempt: string,
  build: RunningBuild,
): Promise<void> {
  const outcome = await build.outcome
  builds.delete(attempt)
  tellEnd(attempt, outcome)
}

function growthReporter(attempt: string): (sizeBytes: number) => void {
  let latest = 0
  let isWaiting = false
  return (sizeBytes) => {
    latest = sizeBytes
    if (isWaiting) return
    isWaiting = true
    clock.setTimer(LOG_REPORT_MS, () => {
      isWaiting = false
      tell({ type: 'log', attempt, sizeBytes: latest })
    })
  }
}

function tellEnd(attempt: string, outcome: BuildOutcome): void {
  tell({ type: 'end', attempt, outcome })
}

function tell(report: Report): void {
  process.stdout.write(encodeLine(report))
}
