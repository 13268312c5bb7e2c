import { HASH_LENGTH } from '../job/content-hash.js';

const ZERO = `decode('00', 'hex')`;

/**
 * What a job is about, as `contentHash` tells it: of one that was sent without, since nobody has asked so far whether another
 * is the same. It is what was sent, for as long as no checkpoint has written another payload.
 */
export const contentHashOf = (job: string): string => `coalesce(${job}.idempotency_hash, left(translate(encode(sha256(
      convert_to(${job}.name, 'UTF8') || ${ZERO} || convert_to(coalesce(${job}.payload::text, ''), 'UTF8')
        || coalesce(${ZERO} || ${job}.payload_bytes, '')
    ), 'base64'), '+/', '-_'), ${HASH_LENGTH}))`;
