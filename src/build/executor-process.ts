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
import { parseWith } from '../wire/cbor.ts'
import {
  decodeOrder,
  encodeLine,
  ExecutorOptions,
  LineDecoder,
  type BuildOutcome,
  type Report,
} from './executor-protocol.ts'
import { findMemoryGroups } from './memory-group.ts'
import { PipePool } from './pipe-pool.ts'
import { killLeftovers } from './process-list.ts'
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
// Plain builds of an executor that was killed together with its daemon.
await killLeftovers(clock, options.directory, 'below')
await removeStale(options.directory)
const sandbox = await probeSandbox({ clock }, options)
const directory = sandboxDirectory(options.directory)
const layout = await readHostLayout(directory)
await using pipes = await PipePool.open(directory, layout)
tell({ type: 'ready', sandbox })
await serve({ clock, pipes, sandbox, layout, groups: findMemoryGroups() })
alive.close()

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
      builds.get(order.attempt)?.setJobs(order.jobs)
      return
    case 'start': {
      const { attempt, isolation } = order.spec
      const refusal =
        isolation === 'namespace' && deps.sandbox.method === 'none'
          ? `no sandbox on this machine: ${deps.sandbox.reasons.join('; ')}`
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
