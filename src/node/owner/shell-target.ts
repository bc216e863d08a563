/** What a node needs to open the place in which a job ran, or would run, once more. */
import { MeshError } from '../../base/errors.ts'
import { runnerOf, type Step } from '../../scheduler/model.ts'
import { attemptsOf } from '../../scheduler/views.ts'
import { encodeAction, makeAction } from '../../wire/action.ts'
import type { ShellTarget } from '../../wire/api.ts'
import { resolveDerivation } from '../../wire/derivation.ts'
import { EMPTY_DIGEST } from '../../wire/digest.ts'

/** Of the `n`-th attempt, of the last one for 0. Throws MESH0601, and MESH0604 while inputs are not built. */
export function shellTarget(step: Step, n: number): ShellTarget {
  const { derivation, request } = step
  const resolved = resolveDerivation(
    derivation,
    (name, output) => request.steps.get(name)?.outputs?.[output],
  )
  if (resolved === undefined)
    throw new MeshError('MESH0604', `${derivation.name} (${step.id}) has inputs that are not built`)
  const attempts = attemptsOf(step)
  const attempt = n > 0 ? attempts[n - 1] : attempts.at(-1)
  if (n > 0 && attempt === undefined)
    throw new MeshError('MESH0601', `${derivation.name} (${step.id}) has no attempt ${n}`)
  const place = { system: attempt?.system ?? derivation.system, machine: attempt?.machine }
  return {
    job: step.id,
    name: derivation.name,
    // The fingerprint is no part of what is seen inside.
    action: Buffer.from(encodeAction(makeAction(resolved, place, EMPTY_DIGEST))).toString('base64'),
    host: place.system,
    ran:
      attempt === undefined
        ? null
        : {
            node: runnerOf(attempt).name,
            label: attempt.label,
            base: attempt.userland?.base ?? null,
          },
  }
}
