/** A hundred derivations that do next to nothing, through one worker and through two: the cost of a job. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { openCluster } from '../scripts/cluster.ts'
import { startSmallMesh, submit } from '../scripts/small-mesh.ts'
import { independentGraph } from './independent-graph.ts'
import { compared, figure, median, timed, type Context, type Subject } from './subject.ts'

const JOBS = 100
const SLEEPING_JOBS = 40
const ROUNDS = 3

/** Median milliseconds per job, with `workerCount` workers: of jobs that compute nothing, and that sleep. */
async function measure(workerCount: number, { signal, log }: Context) {
  await using cluster = await openCluster('mesh-bench', { signal })
  const { dev } = await startSmallMesh(cluster, { workerCount })
  const perJob = async (count: number, command: string): Promise<number> => {
    const samples: number[] = []
    for (let round = 0; round < ROUNDS; round++) {
      const file = join(cluster.directory, 'graph.json')
      await writeFile(file, independentGraph(count, command, `${command} ${round}`))
      samples.push((await timed(() => submit(cluster, dev, file))) / count)
    }
    return median(samples)
  }
  const result = {
    trivialMs: await perJob(JOBS, 'echo "$SALT" > "$out"'),
    sleepingMs: await perJob(SLEEPING_JOBS, 'sleep 0.1; echo "$SALT" > "$out"'),
  }
  log(
    `${workerCount} worker: ${result.trivialMs.toFixed(1)} ms, sleeping ${result.sleepingMs.toFixed(1)} ms each`,
  )
  return result
}

export const subject: Subject = {
  name: 'trivial',
  async run(context) {
    const one = await measure(1, context)
    const two = await measure(2, context)
    return {
      'each, one worker': figure(one.trivialMs, 'ms', 'Nix and Guix offload: 370-2600 ms'),
      'each, two workers': figure(two.trivialMs, 'ms'),
      'sleeping 100 ms each, one worker / two workers': compared(
        one.sleepingMs,
        'ms',
        two.sleepingMs,
      ),
    }
  },
}
