/** The mesh of the demo and the benches: a root and a developer's machine that build nothing, and workers. */
import { join } from 'node:path'
import { z } from 'zod'
import { EXIT } from '../src/base/errors.ts'
import { Bytes, NodeView } from '../src/wire/api.ts'
import { lastJson, until, type Cluster, type Daemon } from './cluster.ts'

/** What `mesh submit --json` prints, as far as the demo reads it; the rest is passed on as it is. */
export const Submitted = z.looseObject({
  request: z.string(),
  state: z.string(),
  jobs: z.looseObject({ built: z.number(), cached: z.number(), failed: z.number() }),
  bytes: Bytes,
  wallMs: z.number(),
  serialMs: z.number(),
})
export type Submitted = z.infer<typeof Submitted>

export interface SmallMesh {
  readonly root: Daemon
  readonly dev: Daemon
  readonly workers: readonly Daemon[]
  /** Whether a worker can build in a private root; if not, a graph must say `sealed = false`. */
  readonly canSeal: boolean
}

/**
 * Starts `root`, `dev` and the workers `w1`, `w2` ..., one processor each, and waits until `dev` sees all
 * workers ready.
 */
export async function startSmallMesh(
  cluster: Cluster,
  { workerCount = 2 }: { readonly workerCount?: number } = {},
): Promise<SmallMesh> {
  const root = await cluster.start({ name: 'root', role: 'root' })
  const names = Array.from({ length: workerCount }, (_, index) => `w${index + 1}`)
  const [dev, ...workers] = await Promise.all([
    cluster.start({ name: 'dev', role: 'client', parents: [root] }),
    ...names.map((name) =>
      cluster.start({ name, role: 'worker,store', listen: 'none', cpus: 1, parents: [root] }),
    ),
  ])
  const views = await until(`${names.join(', ')} to be ready`, async () => {
    const answer = await cluster.mesh(dev, ['nodes', '--json'])
    if (answer.code !== EXIT.ok) return undefined
    const nodes = z.array(NodeView).parse(lastJson(answer))
    const ready = nodes.filter((node) => node.state === 'ready' && names.includes(node.name))
    return ready.length === workerCount ? ready : undefined
  })
  const canSeal = views.some((view) =>
    view.environments.some((environment) => environment.isolation === 'namespace'),
  )
  return { root, dev, workers, canSeal }
}

/** Where `submit` puts outputs, below the directory of the cluster. */
export const RESULT = 'result'

/** `mesh submit` did not end with 0. */
export class SubmitFailed extends Error {
  readonly exit: number
  constructor(message: string, exit: number) {
    super(message)
    this.exit = exit
  }
}

/** Submits and waits; errors and progress are shown as they come. */
export async function submit(
  cluster: Cluster,
  daemon: Daemon,
  file: string,
  options: { readonly env?: Readonly<Record<string, string>>; readonly progress?: string } = {},
): Promise<Submitted> {
  const out = join(cluster.directory, RESULT)
  const args = ['submit', file, '-o', out, '--progress', options.progress ?? 'quiet', '--json']
  const answer = await cluster.mesh(daemon, args, { env: options.env ?? {}, isShown: true })
  if (answer.code !== EXIT.ok)
    throw new SubmitFailed(`mesh submit ended with ${answer.code}\n${answer.stdout}`, answer.code)
  return Submitted.parse(lastJson(answer))
}
