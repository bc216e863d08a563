/** What an attempt made: its outputs in the store, and the signed claim that they are its. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import type { BlobStore } from '../../store/blob-store.ts'
import { BUILD_ROOT, type Action } from '../../wire/action.ts'
import { sha256, type BlobRef } from '../../wire/digest.ts'
import { signResult, type SignedResult, type Signer, type Usage } from '../../wire/result.ts'
import type { Entry } from '../../wire/tree.ts'
import type { Lease } from '../../wire/work-messages.ts'
import { failed, type Failed } from './ends.ts'

/** Names of what is there that a message lists. */
const NAMES_TOLD_MAX = 20
/** What is wrong with a file of the build's, not with the store. */
const REFUSALS: readonly string[] = ['MESH0207', 'MESH0210', 'MESH0211']

export type Outputs = Readonly<Record<string, Entry>>

/** Takes the outputs in, or says why the build has failed after all. `directory` is that of the attempt. */
export async function storeOutputs(
  store: BlobStore,
  action: Action,
  directory: string,
): Promise<{ readonly kind: 'stored'; readonly outputs: Outputs } | Failed> {
  const outputs: Record<string, Entry> = {}
  const made = await readdir(join(directory, 'out'))
  for (const [name] of action.outputs) {
    if (!made.includes(name)) {
      const others =
        made.length === 0
          ? 'it created no output'
          : `it created: ${made.slice(0, NAMES_TOLD_MAX).join(', ')}`
      return failed(
        'MESH0403',
        `the builder ended with 0 but did not create $${name}; ${others}`,
        1,
      )
    }
    try {
      outputs[name] = await store.putTree(join(directory, 'out', name))
    } catch (error) {
      if (!(error instanceof MeshError) || !REFUSALS.includes(error.code)) throw error
      const message = error.message.replaceAll(directory, BUILD_ROOT)
      return failed('MESH0408', `output ${name}: ${message}`, 1)
    }
  }
  return { kind: 'stored', outputs }
}

export function signedResult(
  { clock, signer }: { readonly clock: Clock; readonly signer: Signer },
  lease: Lease,
  of: {
    readonly action: Action
    readonly outputs: Outputs
    readonly log: BlobRef
    readonly usage: Usage
    /** Name of this node. */
    readonly node: string
  },
): SignedResult {
  const { action, outputs, log, usage, node } = of
  return signResult(
    {
      v: 1,
      action: sha256(lease.action),
      jobKey: lease.jobKey,
      attempt: lease.attempt,
      exitCode: 0,
      outputs,
      log,
      usage,
      userland: lease.userland,
      builder: {
        peerId: signer.peerId,
        name: node,
        // Of the environment that it ran in, which for a cross build is not what its outputs are for.
        system: lease.host ?? action.system,
        isolation: lease.isolation,
      },
      endedAtWallMs: clock.wallMs(),
    },
    signer,
  )
}
