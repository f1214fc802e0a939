#!/usr/bin/env bash
# Makes the keys that the unit tests read, with openssl 3. They protect nothing.
set -euo pipefail
cd "$(dirname "$0")"
pass='open sesame'
openssl genrsa -out plain.pem 2048
openssl rsa -in plain.pem -traditional -out pkcs1.pem
{ cat plain.pem; echo OCI_API_KEY; } >labelled.pem
openssl pkcs8 -topk8 -in plain.pem -passout "pass:$pass" -v2 aes-256-cbc -v2prf hmacWithSHA256 -out pbes2.pem
openssl pkcs8 -topk8 -in plain.pem -passout "pass:$pass" -v2 des3 -v2prf hmacWithSHA1 -out pbes2-3des.pem
openssl pkcs8 -topk8 -in plain.pem -passout "pass:$pass" -scrypt -scrypt_N 1024 -out scrypt.pem
for cipher in aes128 aes192 aes256 des3; do
	openssl rsa -in plain.pem -traditional "-$cipher" -passout "pass:$pass" -out "$cipher.pem"
done
openssl rsa -in plain.pem -traditional -camellia256 -passout "pass:$pass" -out camellia.pem
openssl rsa -in plain.pem -pubout -out public.pem
openssl genrsa -out short.pem 1024
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out elliptic.pem
openssl rsa -in plain.pem -pubout -outform DER | openssl md5 -c | sed 's/.*= *//' >fingerprint.txt
printf 'date: now\n(request-target): get /' | openssl dgst -sha256 -sign plain.pem | base64 -w 0 >signature.txt
