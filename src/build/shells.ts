/**
 * The place in which an action ran, opened again for a person: the same root, inputs and environment, with
 * a shell in the place of the builder.
 *
 * This process only prepares it. The sandbox is started by whoever wants the shell, at their own terminal,
 * which is why they have to be the user that this process is.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { MeshError } from '../base/errors.ts'
import { runJob, type FileWorkers } from '../files/workers/file-workers.ts'
import type { Action } from '../wire/action.ts'
import type { Entry } from '../wire/tree.ts'
import { makeAttemptDirectory } from './attempt-directory.ts'
import { entriesOfAction, layInputs, obtainInputs, type Obtain } from './attempt/inputs.ts'
import type { BuildSpec, SandboxChoice } from './executor.ts'
import type { MaterialisedTrees } from './materialised.ts'
import type { Runnable } from './probe/systems.ts'
import { shellCommand, shellScript } from './sandbox-command.ts'
import { readHostLayout } from './sandbox-layout.ts'
import { sandboxDirectory } from './sandbox.ts'

/** Shells that are open at once. */
const SHELLS_MAX = 16
/** Nobody's limits: a person ends it. */
const NO_LIMITS = { timeoutMs: 2 ** 31 - 1, maxSilentMs: 2 ** 31 - 1, maxLogBytes: 0 }
/** How its user starts it: the program reads `input` from descriptor 3, a socket, and reports there. */
interface ShellCommand {
  readonly program: string
  readonly input: string
}

export interface OpenShell extends AsyncDisposable {
  readonly command: ShellCommand
}

export interface ShellDeps {
  readonly trees: MaterialisedTrees
  readonly executor: { readonly sandbox: SandboxChoice }
  /** Whose programs it runs. */
  readonly machine: { readonly systems: readonly Runnable[] }
  readonly workers: FileWorkers
  readonly obtain: Obtain
  readonly hold: (entries: readonly Entry[]) => Disposable
}

/** What is to be opened. */
export interface ShellRequest {
  readonly action: Action
  /** System of the environment in which it ran. */
  readonly host: string
  /** What the shell is told of its job. */
  readonly env: Readonly<Record<string, string>>
  /** In the place of the builder; a shell where it is empty. */
  readonly argv: readonly string[]
  /** The process that starts it and outlives it. */
  readonly parentPid: number
}

export class Shells {
  readonly #deps: ShellDeps
  readonly #data: string
  readonly #directory: string
  #count = 0
  #openCount = 0

  /** `data` is the node's own directory; those of the attempts are in `directory`, and are cleared at each start. */
  constructor(deps: ShellDeps, options: { readonly data: string; readonly directory: string }) {
    this.#deps = deps
    this.#data = options.data
    this.#directory = options.directory
  }

  /** Throws MESH0501 for an input that nobody has, MESH0604 where this machine cannot open it. */
  async open(request: ShellRequest, signal: AbortSignal): Promise<OpenShell> {
    const { executor, workers } = this.#deps
    const { action } = request
    this.#refuse(action)
    if (this.#openCount >= SHELLS_MAX)
      throw new MeshError('MESH0303', `${SHELLS_MAX} shells are open on this node`)
    this.#openCount += 1
    await using cleanup = new AsyncDisposableStack()
    cleanup.defer(() => {
      this.#openCount -= 1
    })
    const directory = join(this.#directory, `shell-${process.pid}-${(this.#count += 1)}`)
    await mkdir(directory, { mode: 0o711 })
    cleanup.defer(() => runJob(workers, 'remove-tree', directory))
    const spec = await this.#specOf(request, directory, { cleanup, signal })
    const layout = await readHostLayout(sandboxDirectory(this.#data))
    makeAttemptDirectory(spec, layout)
    await writeFile(join(directory, 'home', 'builder.sh'), shellScript(action.argv), {
      mode: 0o644,
    })
    const command = shellCommand(executor.sandbox, layout, spec, request.parentPid)
    const opened = cleanup.move()
    return { command, [Symbol.asyncDispose]: () => opened.disposeAsync() }
  }

  #refuse(action: Action): void {
    const { sandbox } = this.#deps.executor
    const problem = !action.sealed
      ? 'it ran without walls, in no environment of its own'
      : sandbox.method !== 'helper'
        ? `this machine's sandbox is ${sandbox.method}, which has no shells`
        : action.image !== undefined
          ? sandbox.imageProblem
          : undefined
    if (problem !== undefined)
      throw new MeshError('MESH0604', `the place in which it ran cannot be opened here: ${problem}`)
  }

  async #specOf(
    { action, host, env, argv }: ShellRequest,
    directory: string,
    context: {
      readonly cleanup: AsyncDisposableStack
      readonly signal: AbortSignal
    },
  ): Promise<BuildSpec> {
    const { cleanup, signal } = context
    const { trees, obtain, hold, machine } = this.#deps
    cleanup.use(hold(entriesOfAction(action)))
    await obtainInputs(obtain, action, { name: env['MESH_JOB'] ?? 'the job', signal })
    const { inputs, image } = cleanup.use(
      await layInputs({ trees, systems: machine.systems }, action, host),
    )
    return {
      attempt: 'shell',
      isolation: action.image === undefined ? 'namespace' : 'image',
      directory,
      argv: argv.length === 0 ? ['/bin/sh', '-i'] : argv,
      env: { ...action.env, ...env },
      cwd: action.cwd,
      inputs,
      image,
      network: action.network,
      limits: NO_LIMITS,
    }
  }
}
