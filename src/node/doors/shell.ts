/** Shells for users of this node: each lives as long as the connection of the client that asked for it. */
import { MeshError } from '../../base/errors.ts'
import type { HostEnvironment } from '../../build/host-environment.ts'
import type { Shells } from '../../build/shells.ts'
import { decodeAction } from '../../wire/action.ts'
import { ShellQuery, ShellTarget, type ShellReady } from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'

export interface ShellDoorDeps {
  readonly shells: Shells | undefined
  readonly environments: () => HostEnvironment['environments']
  readonly node: string
  /** Asks the owner: GET of a path. Throws what it answers. */
  readonly ask: (path: string) => Promise<unknown>
}

/** One line when it can be started; it is cleared away when the client leaves. */
export async function* openShell(
  { shells, environments, node, ask }: ShellDoorDeps,
  job: string,
  query: unknown,
  signal: AbortSignal,
): AsyncIterable<string> {
  const { pid, argv, attempt } = parseWith(ShellQuery, query, 'question for a shell')
  if (shells === undefined)
    throw new MeshError('MESH0604', `${node} has no worker: ask a node that builds`)
  const path = `/api/jobs/${encodeURIComponent(job)}/shell-target?attempt=${attempt}`
  const target = parseWith(ShellTarget, await ask(path), 'place of a job')
  const action = decodeAction(Buffer.from(target.action, 'base64'))
  const env = {
    MESH_JOB: target.job,
    MESH_JOBS: '1',
    MESH_NODE: node,
    MESH_SYSTEM: action.system,
    TERM: 'xterm-256color',
    PS1: `mesh ${target.name}$ `,
  }
  await using shell = await shells.open(
    { action, host: target.host, env, argv, parentPid: pid },
    signal,
  )
  const ready: ShellReady = {
    ...shell.command,
    uid: process.geteuid?.() ?? 0,
    name: target.name,
    warning: differenceOf(target, environments()),
  }
  yield JSON.stringify(ready)
  // Until the client has gone.
  if (!signal.aborted)
    await new Promise<void>((resolve) =>
      signal.addEventListener('abort', () => resolve(), { once: true }),
    )
}

/** Where the tools of the host take part, those of another host are not the same. */
function differenceOf(
  { ran }: ShellTarget,
  environments: HostEnvironment['environments'],
): string | null {
  if (ran === null || ran.base === null) return null
  const own = environments.find(({ isolation }) => isolation === 'namespace')
  if (own === undefined || own.base === ran.base) return null
  return `it ran on ${ran.node} with the tools of another system (${ran.label}); these are ${own.label}'s`
}
