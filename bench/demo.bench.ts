/**
 * LevelDB from nothing: a fresh mesh of two workers with one processor each, against the same commands
 * under `make -j2`, in turn.
 */
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { writeMakefile } from '../examples/leveldb/makefile.ts'
import { openCluster, run } from '../scripts/cluster.ts'
import { startSmallMesh, submit } from '../scripts/small-mesh.ts'
import { cpuSeconds } from './processes.ts'
import { compared, figure, median, timed, type Context, type Subject } from './subject.ts'

const ROUNDS = 3
const GRAPH = join(import.meta.dirname, '../examples/leveldb/graph.ts')

/** Milliseconds from an empty directory to the output of the program. */
async function makeRound(directory: string, signal: AbortSignal): Promise<number> {
  await mkdir(directory)
  await writeMakefile(directory)
  const wallMs = await timed(async () => {
    const { code, stderr } = await run('make', ['-s', '-j2'], { cwd: directory }, signal)
    if (code !== 0) throw new Error(`make ended with ${code}: ${stderr}`)
  })
  await rm(directory, { recursive: true })
  return wallMs
}

async function meshRound(signal: AbortSignal) {
  await using cluster = await openCluster('mesh-bench', { signal })
  const { root, dev, workers } = await startSmallMesh(cluster)
  const pids = [root, dev, ...workers].map((daemon) => daemon.pid)
  const cpuBefore = cpuSeconds(pids)
  const coldMs = await timed(() => submit(cluster, dev, GRAPH))
  const cpuS = cpuSeconds(pids) - cpuBefore
  const againMs = await timed(() => submit(cluster, dev, GRAPH))
  return { coldMs, cpuS, againMs }
}

export const subject: Subject = {
  name: 'demo',
  async run({ signal, log }: Context) {
    await using scratch = await openCluster('mesh-bench', { signal })
    const makeMs: number[] = []
    const rounds: Awaited<ReturnType<typeof meshRound>>[] = []
    for (let round = 1; round <= ROUNDS; round++) {
      makeMs.push(await makeRound(join(scratch.directory, 'make'), signal))
      rounds.push(await meshRound(signal))
      log(
        `round ${round}: make ${makeMs.at(-1)?.toFixed()} ms, mesh ${rounds.at(-1)?.coldMs.toFixed()} ms`,
      )
    }
    const of = (what: 'coldMs' | 'cpuS' | 'againMs'): number =>
      median(rounds.map((round) => round[what]))
    return {
      'cold, wall': compared(of('coldMs') / 1000, 's', median(makeMs) / 1000),
      'cold, processor of the daemons': figure(of('cpuS'), 's'),
      'all cached, wall': figure(of('againMs'), 'ms'),
    }
  },
}
