/** Whole meshes of real processes for the end-to-end tests, and people who sit at their nodes. */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { get } from 'node:http'
import { createServer } from 'node:net'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { z } from 'zod'
import { lastJson, openCluster, until, type Cluster, type Daemon } from '../../scripts/cluster.ts'
import {
  Bytes,
  JobView,
  NodeView,
  RequestView,
  Status,
  type AttemptView,
} from '../../src/wire/api.ts'
import { Workplace, type Ended } from '../cli/mesh-process.ts'

export { until, type Daemon }

/** What `mesh submit --json` prints. Strict: scripts rely on each of its keys. */
const Submitted = z.strictObject({
  v: z.literal(1),
  request: z.string(),
  state: z.string(),
  jobs: z.strictObject({
    built: z.number(),
    cached: z.number(),
    failed: z.number(),
    cancelled: z.number(),
  }),
  outputs: z.record(
    z.string(),
    z.record(
      z.string(),
      z.strictObject({
        cid: z.string().optional(),
        kind: z.string(),
        executable: z.boolean(),
        target: z.string().optional(),
      }),
    ),
  ),
  replicas: z.number().nullable(),
  bytes: Bytes,
  wallMs: z.number(),
  serialMs: z.number(),
  ranLocally: z.number(),
  failures: z.array(
    z.looseObject({ name: z.string(), code: z.string(), message: z.string(), logTail: z.string() }),
  ),
})

const Problem = z.strictObject({
  error: z.strictObject({
    code: z.string(),
    message: z.string(),
    where: z.string().optional(),
    hints: z.array(z.string()),
  }),
})

/** A person in a directory of their own, at one daemon. */
export class Desk extends Workplace {
  readonly #socket: string
  readonly #children: ChildProcess[] = []

  constructor(daemon: Pick<Daemon, 'file'>) {
    super({ MESH_SOCKET: daemon.file.socket })
    this.#socket = daemon.file.socket
  }

  override start(...args: readonly string[]): ReturnType<Workplace['start']> {
    const started = super.start(...args)
    this.#children.push(started.child)
    return started
  }

  /** Starts `mesh`; what it prints so far is in `output`. */
  follow(...args: readonly string[]): Following {
    const { child, ended } = this.start(...args)
    const output = { stdout: '', stderr: '' }
    child.stdout?.on('data', (bytes: Buffer) => (output.stdout += bytes.toString()))
    child.stderr?.on('data', (bytes: Buffer) => (output.stderr += bytes.toString()))
    return { child, ended, output }
  }

  read(path: string): string {
    return readFileSync(join(this.directory, path), 'utf8')
  }

  override [Symbol.dispose](): void {
    // A failed test leaves clients behind that would wait for their daemon to come back.
    for (const child of this.#children) child.kill('SIGKILL')
    super[Symbol.dispose]()
  }

  /** Asks the daemon; undefined when it is away, or says anything but yes. Costs less than a client process. */
  async ask<T>(schema: z.ZodType<T>, path: string): Promise<T | undefined> {
    const answer = await getOverSocket(this.#socket, path)
    return answer?.status === 200 ? schema.parse(JSON.parse(answer.body)) : undefined
  }

  async jobs(): Promise<JobView[]> {
    return (await this.ask(z.array(JobView), '/api/jobs')) ?? []
  }

  /** The newest job of that name. */
  async job(name: string): Promise<JobView> {
    const job = (await this.jobs()).find((candidate) => candidate.name === name)
    assert(job !== undefined, `there is no job ${name}`)
    return job
  }

  /** Waits until the newest attempt of that job is in one of these states; the job as it is then. */
  untilJob(name: string, ...states: readonly AttemptView['state'][]): Promise<JobView> {
    return until(`${name} to be ${states.join(' or ')}`, async () => {
      const job = (await this.jobs()).find((candidate) => candidate.name === name)
      const state = job?.attempts.at(-1)?.state
      return state !== undefined && states.includes(state) ? job : undefined
    })
  }

  /** The newest request, if there is one. */
  async request(): Promise<RequestView | undefined> {
    return (await this.ask(z.array(RequestView), '/api/requests'))?.[0]
  }

  /** Waits until the newest request is as told. */
  untilRequest(what: string, is: (request: RequestView) => boolean): Promise<RequestView> {
    return until(`the request to be ${what}`, async () => {
      const request = await this.request()
      return request !== undefined && is(request) ? request : undefined
    })
  }

  /** Waits until the daemon says that it takes nothing new. */
  async untilDraining(): Promise<void> {
    await until('the drain', async () => {
      const status = await this.ask(Status, '/api/status')
      return status?.draining === true ? true : undefined
    })
  }

  /** Waits until the daemon sees these nodes ready; workers among them have said what they offer. */
  untilReady(...names: readonly string[]): Promise<readonly NodeView[]> {
    return until(`${names.join(', ')} to be ready`, async () => {
      const nodes = (await this.ask(z.array(NodeView), '/api/nodes')) ?? []
      const ready = nodes.filter(
        ({ state, name, roles, environments }) =>
          state === 'ready' &&
          names.includes(name) &&
          (environments.length > 0 || !roles.includes('worker')),
      )
      return ready.length === names.length ? ready : undefined
    })
  }
}

/** Undefined when nobody listens, or the connection breaks. */
function getOverSocket(
  socketPath: string,
  path: string,
): Promise<{ readonly status: number; readonly body: string } | undefined> {
  return new Promise((resolve) => {
    const request = get({ socketPath, path, agent: false }, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (text: string) => (body += text))
      response.once('end', () => resolve({ status: response.statusCode ?? 0, body }))
      response.once('error', () => resolve(undefined))
    })
    request.once('error', () => resolve(undefined))
  })
}

interface Following {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  readonly output: { stdout: string; stderr: string }
}

/** What `mesh submit --json` told at its end. */
export function submitted(ended: Ended): z.infer<typeof Submitted> {
  return Submitted.parse(lastJson(ended))
}

/** The error that a command told with `--json`. */
export function problem(ended: Ended): z.infer<typeof Problem>['error'] {
  return Problem.parse(lastJson(ended)).error
}

/** A port of 127.0.0.1 that nobody listens on: for a daemon that is to come back at the same one. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  assert(typeof address === 'object' && address !== null)
  return address.port
}

/** A multiaddr of this machine. */
export const tcp = (port: number): string => `/ip4/127.0.0.1/tcp/${port}`

/** A cluster, and the people who use it. */
export interface Mesh extends Cluster {
  desk(daemon: Pick<Daemon, 'file'>): Desk
}

/** Given its test, the mesh is gone also when that runs out of time and never gets to dispose of it. */
export async function openMesh(t?: TestContext): Promise<Mesh> {
  const cluster = await openCluster('mesh-e2e', t === undefined ? {} : { signal: t.signal })
  const desks: Desk[] = []
  const dispose = async (): Promise<void> => {
    for (const desk of desks) desk[Symbol.dispose]()
    await cluster[Symbol.asyncDispose]()
  }
  t?.signal.addEventListener('abort', () => void dispose(), { once: true })
  return {
    ...cluster,
    desk(daemon) {
      const desk = new Desk(daemon)
      desks.push(desk)
      return desk
    },
    [Symbol.asyncDispose]: dispose,
  }
}
